"""Finds, reads, checks and writes checkpoints."""

import operator
import pickle
import zipfile
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Literal

import torch
from lightning import LightningModule
from lightning.fabric.plugins import TorchCheckpointIO

from fvit.config.atomic import PARTIAL, replacing
from fvit.config.legacy import migrate_checkpoint
from fvit.models import BlockSpec, block_indices


def find(path: str | Path, prefer: Literal["best", "last"] = "best", key: str = "ckpt_path") -> Path:
    """The checkpoint file at `path`.

    Args:
        path: a file or a run directory.
        prefer: which of a run's two checkpoints: the best to evaluate, the last to resume from.
        key: the configuration key that holds the path, for the error message.

    Raises:
        FileNotFoundError: there is none.
    """
    path = Path(path).expanduser()
    if path.is_file():
        return path
    if not path.exists():
        raise FileNotFoundError(f"{key}={path} does not exist")
    for name in sorted(("best.ckpt", "last.ckpt"), key=lambda name: not name.startswith(prefer)):
        for folder in (path / "checkpoints", path):
            if (folder / name).is_file():
                return folder / name
    raise FileNotFoundError(f"{key}={path} has no checkpoint: neither checkpoints/best.ckpt nor last.ckpt")


def read(path: Path) -> dict[str, Any]:
    """The content of a checkpoint on the CPU, without executing code that it may contain.

    Raises:
        ValueError: the file is truncated or damaged, or not an fvit checkpoint.
    """
    broken = f"{path} ({path.stat().st_size} bytes) is truncated or not a checkpoint"
    # The directory of a zip archive is at its end, so opening it detects every truncation. Its checksums, which torch
    # ignores, detect later changes.
    try:
        with zipfile.ZipFile(path) as archive:
            changed = archive.testzip()
    except zipfile.BadZipFile as error:
        raise ValueError(broken) from error
    if changed is not None:
        raise ValueError(f"{path} was changed after it was written: {changed} does not match its checksum")
    try:
        checkpoint = torch.load(path, map_location="cpu", weights_only=True)
    except (RuntimeError, pickle.UnpicklingError) as error:
        raise ValueError(f"{broken}: {str(error).splitlines()[0]}") from error
    if not isinstance(checkpoint, dict) or not {"state_dict", "hyper_parameters"} <= set(checkpoint):
        raise ValueError(f"{path} is not an fvit checkpoint: it lacks state_dict or hyper_parameters")
    migrate_checkpoint(checkpoint)
    return checkpoint


def initial_weights(path: str | Path, model: Mapping[str, Any]) -> dict[str, Any]:
    """The arguments with which `fvit.models.build` starts from the weights of another run.

    Args:
        path: a checkpoint or a run directory (its best one).
        model: the model arguments of `Classifier`.
    """
    content = read(find(path, key="model.init_from"))
    weights = content["state_dict"]
    trained = content["hyper_parameters"]["model"]
    return {
        "weights": {name.removeprefix("model."): weights[name] for name in weights if name.startswith("model.")},
        # Other options of the same mechanism may change shapes; weights that do not fit are left out.
        "exchanged": _mechanisms(trained) == _mechanisms(model)
        and _same_blocks(trained.get("blocks"), model.get("blocks")),
    }


def find_resumable(path: str | Path | None, module: LightningModule) -> str | None:
    """The checkpoint file at `path` (of a run directory: the last one), if it fits `module`; None for None."""
    if path is None:
        return None
    file = find(path, prefer="last")
    check_fits(read(file), file, module)
    return str(file)


def check_fits(checkpoint: dict[str, Any], path: Path, module: LightningModule) -> None:
    """Compare the names and shapes of weights, the attention, and whether there is a teacher.

    Raises:
        ValueError: they differ; the message names the first differences.
    """
    had, has = (bool(parameters.get("distillation")) for parameters in (checkpoint["hyper_parameters"], module.hparams))
    if had != has:
        raise ValueError(
            f"{path} was trained with{'' if had else 'out'} a teacher, and this run has {'one' if has else 'none'}. "
            f"Resume with the same distillation=…, or start a new run with model.init_from={path}"
        )
    weights = {**checkpoint["state_dict"], **checkpoint.get("matches", {})}
    saved = {name: tuple(tensor.shape) for name, tensor in weights.items()}
    wanted = {name: tuple(tensor.shape) for name, tensor in module.state_dict().items()}
    differing = [name for name in sorted(saved | wanted) if saved.get(name) != wanted.get(name)]
    if differing:
        shown = "; ".join(f"{name}: {saved.get(name)} in the file, {wanted.get(name)} here" for name in differing[:3])
        raise ValueError(
            f"{path} does not fit the configured model ({len(differing)} of {len(wanted)} weights differ: {shown}). "
            "Use the configuration of its run, config.yaml in the run directory"
        )
    # Softmax and linear attention, for example, have the same weights.
    trained, asked = (parameters["model"] for parameters in (checkpoint["hyper_parameters"], module.hparams))
    for key, same in (("attention", operator.eq), ("blocks", _same_blocks)):
        if not same(trained.get(key), asked.get(key)):
            raise ValueError(
                f"{path} was trained with model.{key}={trained.get(key)}, not {asked.get(key)}. "
                "Use the configuration of its run, config.yaml in the run directory"
            )


class AtomicCheckpointIO(TorchCheckpointIO):
    """Replaces a checkpoint once the new one is on disk; the old last.ckpt becomes previous.ckpt.

    Lightning's own builds the whole file in memory, does not wait for the disk, and keeps no predecessor.
    """

    def save_checkpoint(self, checkpoint: dict[str, Any], path: str | Path, storage_options: Any = None) -> None:
        path = Path(path)
        path.parent.mkdir(parents=True, exist_ok=True)
        for leftover in path.parent.glob(f"{path.name}.*{PARTIAL}"):  # of a process that was killed while writing
            leftover.unlink(missing_ok=True)
        keep = path.with_name("previous.ckpt") if path.name == "last.ckpt" else None
        with replacing(path, "wb", keep=keep) as file:
            torch.save(checkpoint, file)


def _mechanisms(model: Mapping[str, Any]) -> tuple[str, Any]:
    """The name of the attention, and the list of a mixed one."""
    attention = model.get("attention", {"name": "native"})
    return attention["name"], attention.get("layers")


def _same_blocks(one: BlockSpec | None, other: BlockSpec | None) -> bool:
    """Whether two notations, such as 4-6 and [4, 5, 6], name the same blocks."""
    return one == other or (one is not None and other is not None and block_indices(one) == block_indices(other))
