"""Runs that are killed, and the comparison of what they end with."""

import csv
from pathlib import Path

import torch

# Measured by a clock, or from the machine's memory.
_MEASURED = ("throughput/", "memory/", "gpu/", "progress/seconds_left", "progress/device_hours")

NOISY = (
    "model=vit_atto",
    "model.embed_dim=24",
    "model.depth=2",
    "model.drop_rate=0.1",
    "model.drop_path_rate=0.2",
    "data.augment.mixup.mixup_alpha=0.8",
    "data.augment.mixup.cutmix_alpha=1.0",
    "data.augment.erasing.probability=0.5",
    "callbacks=[default,ema]",
    "callbacks.ema.decay=0.9",
    "scheduler.warmup_epochs=0",
    "optimizer.lr=1e-2",
    "trainer.log_every_n_steps=1",
    "trainer.deterministic=true",
)
"""Everything random, averaged weights, and a row of metrics.csv per step."""


def differences(one, other, place=""):
    """Where two checkpoints differ in any bit."""
    if isinstance(one, torch.Tensor) and isinstance(other, torch.Tensor):
        return [] if one.dtype == other.dtype and torch.equal(one, other) else [place]
    if isinstance(one, dict) and isinstance(other, dict):
        keys = [key for key in one | other if not str(key).startswith(_MEASURED)]
        return [hit for key in keys for hit in differences(one.get(key), other.get(key), f"{place}/{key}")]
    if isinstance(one, list | tuple) and isinstance(other, list | tuple) and len(one) == len(other):
        pairs = enumerate(zip(one, other, strict=True))
        return [hit for index, pair in pairs for hit in differences(*pair, f"{place}/{index}")]
    return [] if one == other else [f"{place}: {one} and {other}"]


def last(run: Path):
    """The content of last.ckpt, with paths relative to the run directory."""
    return _relative(torch.load(run / "checkpoints" / "last.ckpt", weights_only=True), f"{run}/")


def _relative(value, folder):
    if isinstance(value, str):
        return value.replace(folder, "")
    if isinstance(value, dict):
        return {_relative(key, folder): _relative(part, folder) for key, part in value.items()}
    return value


def curve(run: Path):
    """The rows of csv/metrics.csv without measured values."""
    with (run / "csv" / "metrics.csv").open(newline="") as file:
        rows = list(csv.DictReader(file))
    return [{key: value for key, value in row.items() if value and not key.startswith(_MEASURED)} for row in rows]
