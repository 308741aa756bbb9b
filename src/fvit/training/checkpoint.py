"""Finds, reads, checks and writes checkpoints."""

import logging
import operator
import shlex
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Literal

import torch
from lightning import LightningModule
from lightning.fabric.plugins import TorchCheckpointIO

from fvit.config.atomic import PARTIAL, replacing
from fvit.config.legacy import migrate_checkpoint
from fvit.config.overrides import argument
from fvit.config.wording import pixels
from fvit.models.spec import same_blocks
from fvit.models.transfer import abbreviate_names
from fvit.models.weights import describe, read_file, unwrapped, weights_in
from fvit.training.classes import check_unchanged
from fvit.training.resizing import resize_checkpoint

log = logging.getLogger(__name__)


def find(path: str | Path, prefer: Literal["best", "last"] = "best", key: str = "ckpt_path") -> Path:
    """The checkpoint file at `path`.

    Args:
        path: a file or a run directory.
        prefer: which of a run's two checkpoints: the best to evaluate, the last to resume from.
        key: the configuration key that holds the path, for the error message.

    Raises:
        FileNotFoundError: there is none.
        ValueError: it is in shards.
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
    if (path / ".metadata").is_file():
        raise ValueError(
            f"{key}={path} is a checkpoint in shards of torch.distributed.checkpoint: make it one file with "
            f"python -m torch.distributed.checkpoint.format_utils dcp_to_torch {shlex.quote(str(path))} FILE"
        )
    raise FileNotFoundError(f"{key}={path} has no checkpoint: neither checkpoints/best.ckpt nor last.ckpt")


def read(path: Path) -> dict[str, Any]:
    """The content of an fvit checkpoint on the CPU, without executing code that it may contain.

    Raises:
        ValueError: the file is truncated or damaged, or not an fvit checkpoint.
    """
    content = read_file(path)
    if not is_ours(content):
        try:
            weights_in(content, path)
            remedy = f"; a run can start from its weights: {argument('model.init_from', path)}"
        except ValueError:
            remedy = ""
        raise ValueError(f"{path} is not an fvit checkpoint but {describe(content)}{remedy}")
    for key in ("state_dict", "current_model_state"):  # of a model that was wrapped when it was saved
        if key in content:
            content[key] = unwrapped(content[key])
    migrate_checkpoint(content)
    return content


def is_ours(content: Any) -> bool:
    """Whether a file's content describes its model, as those of `Classifier` do."""
    if not isinstance(content, Mapping) or not isinstance(content.get("state_dict"), Mapping):
        return False
    parameters = content.get("hyper_parameters")
    if not isinstance(parameters, Mapping) or not {"model", "img_size", "num_classes"} <= set(parameters):
        return False
    return isinstance(parameters["model"], Mapping) and "name" in parameters["model"]


def find_resumable(path: str | Path | None, module: LightningModule, sharded: bool = False) -> str | None:
    """The checkpoint file at `path` (of a run directory: the last one), if it fits `module`; None for None.

    Weights for images of another size fit if they can be resampled, which loading them does unless they are `sharded`.
    """
    if path is None:
        return None
    file = find(path, prefer="last")
    content = read(file)
    trained = content["hyper_parameters"]["img_size"]
    if resampled := resize_checkpoint(content, module):
        if sharded:
            raise ValueError(
                f"{file} has weights for images of {pixels(trained)}, and FSDP loads them without resampling them: "
                f"continue with hardware=ddp, or start a new run from them: {argument('model.init_from', file)}"
            )
        log.info(
            "images of %s instead of %s: the optimizer's state begins anew for the resampled %s",
            *(pixels(module.hparams.img_size), pixels(trained), abbreviate_names(resampled)),
        )
    check_fits(content, file, module)
    return str(file)


def check_fits(checkpoint: dict[str, Any], path: Path, module: LightningModule) -> None:
    """Compare the names and shapes of weights, the attention, the classes, and whether there is a teacher.

    Raises:
        ValueError: they differ; the message names the first differences.
    """
    had, has = (bool(parameters.get("distillation")) for parameters in (checkpoint["hyper_parameters"], module.hparams))
    if had != has:
        raise ValueError(
            f"{path} was trained with{'' if had else 'out'} a teacher, and this run has {'one' if has else 'none'}. "
            f"Resume with the same distillation=…, or start a new run with {argument('model.init_from', path)}"
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
    for key, same in (("attention", operator.eq), ("blocks", same_blocks)):
        if not same(trained.get(key), asked.get(key)):
            raise ValueError(
                f"{path} was trained with model.{key}={trained.get(key)}, not {asked.get(key)}. "
                "Use the configuration of its run, config.yaml in the run directory"
            )
    if (trained := checkpoint.get("classes")) and module.classes:
        check_unchanged(module.classes, trained, str(path))


class AtomicCheckpointIO(TorchCheckpointIO):
    """Replaces a checkpoint once the new one is on disk; the old last.ckpt becomes previous.ckpt.

    Lightning's own builds the whole file in memory, does not wait for the disk, and keeps no predecessor.
    """

    def load_checkpoint(self, path: str | Path, *args: Any, **options: Any) -> dict[str, Any]:
        return read(Path(path))

    def save_checkpoint(self, checkpoint: dict[str, Any], path: str | Path, storage_options: Any = None) -> None:
        path = Path(path)
        path.parent.mkdir(parents=True, exist_ok=True)
        for leftover in path.parent.glob(f"{path.name}.*{PARTIAL}"):  # of a process that was killed while writing
            leftover.unlink(missing_ok=True)
        keep = path.with_name("previous.ckpt") if path.name == "last.ckpt" else None
        with replacing(path, "wb", keep=keep) as file:
            torch.save(checkpoint, file)
