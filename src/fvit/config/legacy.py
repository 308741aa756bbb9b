"""Names of version 0.1 that have changed, so that its runs can be resumed and its configurations still work."""

import importlib
import sys
from collections.abc import Sequence
from types import ModuleType
from typing import Any

import fvit

CLASSES = {
    "fvit.run.curve.CurveLogger": "fvit.loggers.csv.CSVLogger",
    "fvit.run.ema.EMA": "fvit.callbacks.ema.EMA",
    "fvit.run.last.LastCheckpoint": "fvit.callbacks.last_checkpoint.LastCheckpoint",
    "fvit.run.profiling.Trace": "fvit.callbacks.profiler.Trace",
    "fvit.run.study.pruning.Pruning": "fvit.search.pruning.Pruning",
    "fvit.run.tracking.RunLogger": "fvit.loggers.wandb.RunLogger",
}
# Named in the hydra section of a configuration, whose classes Hydra imports itself.
_MODULES = {"sweep": "fvit.launch.sweep"}
FORMAT = 2
"""Of checkpoints. In the first, which names none, softmax attention ignored the rotary positions of its host."""
_CALLBACK_STATES = {"DeviceHours": "Metrics"}
_REMOVED_MODEL_OPTIONS = ("trim_last",)


def register_moved_modules() -> None:
    """Let ``fvit.run.sweep.SweepFolder`` be found, as in the ``hydra.callbacks`` of a configuration of version 0.1."""
    old = fvit.run = sys.modules["fvit.run"] = ModuleType("fvit.run")
    for name, new in _MODULES.items():
        module = sys.modules[f"fvit.run.{name}"] = importlib.import_module(new)
        setattr(old, name, module)


def moved(options: dict[str, Any]) -> dict[str, Any]:
    """`options` of a logger or callback with the class where it is now."""
    target = options.get("_target_")
    return {**options, "_target_": CLASSES.get(target, target)}


def model_options(options: dict[str, Any]) -> dict[str, Any]:
    """Model options without those that were removed."""
    return {name: value for name, value in options.items() if name not in _REMOVED_MODEL_OPTIONS}


def migrate_config(config: dict[str, Any]) -> dict[str, Any]:
    """The recorded configuration of a run in the names of today."""
    groups = {
        group: {name: moved(options) for name, options in config[group].items()}
        for group in ("logger", "callbacks")
        if config.get(group)
    }
    return {**config, **groups, "model": model_options(config.get("model", {}))}


def migrate_overrides(overrides: Sequence[str]) -> list[str]:
    """The recorded overrides of a run without those of removed keys."""
    removed = [f"model.{name}" for name in _REMOVED_MODEL_OPTIONS]
    return [override for override in overrides if override.partition("=")[0].lstrip("+~") not in removed]


def migrate_checkpoint(checkpoint: dict[str, Any]) -> None:
    """Rename in place what a checkpoint holds under another name today."""
    parameters = checkpoint.get("hyper_parameters", {})
    if isinstance(parameters.get("model"), dict):  # not a module that replaces it
        checkpoint["hyper_parameters"] = {**parameters, "model": model_options(parameters["model"])}
    states = checkpoint.get("callbacks", {})
    for old, new in _CALLBACK_STATES.items():
        if old in states:
            states[new] = states.pop(old)
