"""What tells one W&B run or artifact from another: its name, where its configuration comes from, its metrics."""

import hashlib
import pickle
from pathlib import Path
from typing import Any

import torch
from lightning.pytorch.callbacks import Checkpoint
from omegaconf import OmegaConf

from fvit.config import naming
from fvit.config.recorded import overrides_of

_LONGEST_NAME = 128  # W&B's limit


def origin(folder: Path, config: dict[str, Any]) -> dict[str, Any]:
    """What Hydra recorded in a run directory, as keys of the W&B config."""
    overrides = overrides_of(folder) or []
    found: dict[str, Any] = {
        "choices": naming.choices(_recorded_choices(folder), (config.get("model") or {}).get("attention")),
        "overrides": dict(override.lstrip("+").partition("=")[::2] for override in overrides),
    }
    if "title" in config:
        found["variant"] = naming.variant(overrides, config["title"])
    return found


def describe_checkpoint(callback: Checkpoint, path: Path) -> dict[str, Any]:
    """Epoch, step and validation metrics of the checkpoint that a callback wrote.

    Raises:
        ValueError: the file is damaged.
    """
    if path.is_dir():
        return {callback.monitor: float(callback.best_model_score)} if callback.monitor else {}
    try:  # mapped, so that the weights are not read
        content = torch.load(path, map_location="cpu", weights_only=True, mmap=True)
    except (RuntimeError, pickle.UnpicklingError) as error:
        raise ValueError(f"{path} is damaged: {str(error).splitlines()[0]}") from error
    return {"epoch": content["epoch"], "global_step": content["global_step"], **content.get("metrics", {})}


def shortened(name: str) -> str:
    """At most `_LONGEST_NAME` letters; a digest in place of the rest keeps names distinct."""
    digest = hashlib.sha256(name.encode()).hexdigest()[:6]
    return name if len(name) <= _LONGEST_NAME else f"{name[: _LONGEST_NAME - 8]}… {digest}"


def _recorded_choices(folder: Path) -> dict[str, Any]:
    """The option of each config group; empty for a run that Hydra did not start."""
    path = folder / ".hydra" / "hydra.yaml"
    return OmegaConf.to_container(OmegaConf.load(path).hydra.runtime.choices) if path.is_file() else {}
