"""Names that have changed since version 0.1, so that its configurations and checkpoints still work."""

from typing import Any

_CLASSES = {
    "fvit.run.curve.CurveLogger": "fvit.loggers.csv.CSVLogger",
    "fvit.run.ema.EMA": "fvit.callbacks.ema.EMA",
    "fvit.run.last.LastCheckpoint": "fvit.callbacks.last_checkpoint.LastCheckpoint",
    "fvit.run.profiling.Trace": "fvit.callbacks.profiler.Trace",
    "fvit.run.study.pruning.Pruning": "fvit.search.pruning.Pruning",
    "fvit.run.tracking.RunLogger": "fvit.loggers.wandb.RunLogger",
}
_CALLBACK_STATES = {"DeviceHours": "Metrics"}
_MODEL_OPTIONS = ("trim_last",)


def moved(options: dict[str, Any]) -> dict[str, Any]:
    """`options` of a logger or callback with its class at its present place."""
    target = options.get("_target_")
    return {**options, "_target_": _CLASSES.get(target, target)}


def model_options(options: dict[str, Any]) -> dict[str, Any]:
    """Model options of a checkpoint, without those that no longer exist."""
    return {name: value for name, value in options.items() if name not in _MODEL_OPTIONS}


def migrate(checkpoint: dict[str, Any]) -> None:
    """Rename in place what a checkpoint holds under another name today."""
    parameters = checkpoint.get("hyper_parameters", {})
    if "model" in parameters:
        checkpoint["hyper_parameters"] = {**parameters, "model": model_options(parameters["model"])}
    states = checkpoint.get("callbacks", {})
    for old, new in _CALLBACK_STATES.items():
        if old in states:
            states[new] = states.pop(old)
