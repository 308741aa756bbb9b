"""What a run directory records of the command line that started the run."""

import shlex
from pathlib import Path
from typing import Any

from omegaconf import OmegaConf

from fvit.config.legacy import migrate_overrides
from fvit.config.overrides import parse

# The options of a model that its weights are shaped by, besides its name.
_SHAPE = ("patch_size", "embed_dim", "depth", "num_heads")
# Those that say how a run starts, and the search for a width, of which the width is recorded.
_NOT_OF_THE_WEIGHTS = {f"model.{key}" for key in ("init_from", "pretrained", "freeze", "keep", "num_classes", "match")}


def overrides_of(folder: Path) -> list[str] | None:
    """The overrides that a run was started with, as they were typed; None without a record of them."""
    for path in (folder / "overrides.yaml", folder / ".hydra" / "overrides.yaml"):
        if path.is_file():
            return migrate_overrides(OmegaConf.to_container(OmegaConf.load(path), resolve=False))
    return None


def model_of(path: str | Path) -> list[str]:
    """The overrides that give another run the model of this one, to paste into a shell; [] if they are unknown.

    Args:
        path: a run directory, or a checkpoint in one.
    """
    run = Path(path).expanduser()
    run = run.parent.parent if run.is_file() else run
    choices = _read(run / ".hydra" / "hydra.yaml").get("hydra", {}).get("runtime", {}).get("choices", {})
    if "model" not in choices:
        return []
    groups = [f"{group}={choices[group]}" for group in ("model", "attention") if choices.get(group)]
    typed = {
        key: override.input_line
        for key, override in parse(overrides_of(run) or [])
        if key.startswith("model.") and key not in _NOT_OF_THE_WEIGHTS
    }
    model = _read(run / "config.yaml").get("model", {}) if choices["model"] != "timm" else {}
    shape = {f"model.{key}": f"model.{key}={model[key]}" for key in _SHAPE if model.get(key)}
    return [shlex.quote(override) for override in [*groups, *(typed | shape).values()]]


def _read(path: Path) -> dict[str, Any]:
    return OmegaConf.to_container(OmegaConf.load(path), resolve=False) if path.is_file() else {}
