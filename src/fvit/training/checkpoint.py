"""Finding and opening checkpoints, with errors for people."""

import operator
import pickle
import zipfile
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Literal

import torch
from lightning import LightningModule

from fvit.models import BlockSpec, block_indices


def find(path: str | Path, prefer: Literal["best", "last"] = "best", key: str = "ckpt_path") -> Path:
    """The checkpoint file at `path`: the file itself, or one of a run's folder.

    Args:
        path: a file or a run's folder.
        prefer: which of a folder's two checkpoints, if it has both: the best to measure, the last to go on from.
        key: of the configuration that holds the path, for the error's text.

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
    raise FileNotFoundError(f"{key}={path} holds no checkpoint: neither checkpoints/best.ckpt nor last.ckpt")


def read(path: Path) -> dict[str, Any]:
    """The content of a checkpoint, on the CPU, without executing any code it may hold.

    Raises:
        ValueError: the file is truncated, or no checkpoint of ours.
    """
    broken = f"{path} ({path.stat().st_size} bytes) is truncated or is no checkpoint"
    # A zip archive's directory stands at its end, so opening it finds every truncation, and all that is no checkpoint
    # at all. Its checksums, which torch does not look at, find what has changed since.
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
        raise ValueError(f"{path} is no checkpoint of fvit: it lacks state_dict or hyper_parameters")
    return checkpoint


def beginning(path: str | Path, model: Mapping[str, Any]) -> dict[str, Any]:
    """The arguments of `fvit.models.build` with which `model` begins with the weights of another run.

    Args:
        path: a checkpoint of ours, or a run's folder (its best one).
        model: arguments of `Classifier`.
    """
    content = read(find(path, key="model.init_from"))
    weights = content["state_dict"]
    trained = content["hyper_parameters"]["model"]
    return {
        "weights": {name.removeprefix("model."): weights[name] for name in weights if name.startswith("model.")},
        # Other options of the same mechanism may change shapes, and such weights then do not fit.
        "exchanged": _mechanisms(trained) == _mechanisms(model)
        and _same_blocks(trained.get("blocks"), model.get("blocks")),
    }


def check_fits(checkpoint: dict[str, Any], path: Path, module: LightningModule) -> None:
    """Compare names and shapes of the weights, the attention, and whether there is a teacher.

    Raises:
        ValueError: they differ; the text names the first differences.
    """
    had, has = (bool(parameters.get("distillation")) for parameters in (checkpoint["hyper_parameters"], module.hparams))
    if had != has:
        raise ValueError(
            f"{path} was trained with{'' if had else 'out'} a teacher, and this run has {'one' if has else 'none'}. "
            f"Go on with the same distillation=…, or begin a new run with model.init_from={path}"
        )
    weights = {**checkpoint["state_dict"], **checkpoint.get("matches", {})}
    saved = {name: tuple(tensor.shape) for name, tensor in weights.items()}
    wanted = {name: tuple(tensor.shape) for name, tensor in module.state_dict().items()}
    differing = [name for name in sorted(saved | wanted) if saved.get(name) != wanted.get(name)]
    if differing:
        shown = "; ".join(f"{name}: {saved.get(name)} in the file, {wanted.get(name)} here" for name in differing[:3])
        raise ValueError(
            f"{path} is of another shape than the configured model ({len(differing)} of {len(wanted)} weights differ: "
            f"{shown}). Start with the configuration of its run, config.yaml in the run's folder"
        )
    # Softmax and linear attention, for one, have the same weights.
    trained, asked = (parameters["model"] for parameters in (checkpoint["hyper_parameters"], module.hparams))
    for key, same in (("attention", operator.eq), ("blocks", _same_blocks)):
        if not same(trained.get(key), asked.get(key)):
            raise ValueError(
                f"{path} was trained with model.{key}={trained.get(key)}, not {asked.get(key)}. "
                "Start with the configuration of its run, config.yaml in the run's folder"
            )


def _mechanisms(model: Mapping[str, Any]) -> tuple[str, Any]:
    """The name of the attention, and the list of those that are mixed."""
    attention = model.get("attention", {"name": "native"})
    return attention["name"], attention.get("layers")


def _same_blocks(one: BlockSpec | None, other: BlockSpec | None) -> bool:
    """Whether two notations, such as 4-6 and [4, 5, 6], name the same blocks."""
    return one == other or (one is not None and other is not None and block_indices(one) == block_indices(other))
