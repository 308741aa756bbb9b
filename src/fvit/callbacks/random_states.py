"""Random number generators and training metrics of each rank, in checkpoints."""

import random
from typing import Any

import numpy as np
import torch
import torch.distributed as dist
from lightning import Callback, LightningModule, Trainer, seed_everything

from fvit.launch.console import console

_KEY = "rank_states"


class RandomStates(Callback):
    """Makes dropout and drop path of a resumed run draw what they would have drawn, and continues training metrics.

    A checkpoint holds the generators of each rank and the states of its training metrics (those of the module whose
    names do not start with ``val_``), as tensors and plain numbers, so that it loads with ``weights_only=True``.
    """

    def __init__(self) -> None:
        self._ranks: list[dict[str, Any]] | None = None

    def on_save_checkpoint(self, trainer: Trainer, module: LightningModule, checkpoint: dict[str, Any]) -> None:
        own = {"random": _random_states(module.device), "metrics": _metric_states(module)}
        ranks: list = [own] * trainer.world_size
        if trainer.world_size > 1:
            dist.all_gather_object(ranks, own)
        checkpoint[_KEY] = ranks

    def on_load_checkpoint(self, trainer: Trainer, module: LightningModule, checkpoint: dict[str, Any]) -> None:
        self._ranks = checkpoint.get(_KEY)

    def on_train_start(self, trainer: Trainer, module: LightningModule) -> None:
        # Not earlier: building loaders and optimizers may draw as well.
        ranks, self._ranks = self._ranks, None
        if ranks is None:
            return
        rank, world = trainer.global_rank, trainer.world_size
        if trainer.fit_loop.restarted_mid_epoch:
            _add_metric_states(module, [states["metrics"] for states in ranks[rank::world]])
        if len(ranks) == world:
            _set_random_states(ranks[rank]["random"], module.device)
            return
        # The seed of the run's start would repeat its numbers.
        seed_everything(trainer.datamodule.hparams.seed + trainer.global_step + rank, workers=True, verbose=False)
        if trainer.is_global_zero:
            console.print(
                f"The checkpoint is from {len(ranks)} processes and this run has {world}: dropout is seeded anew"
            )


def _random_states(device: torch.device) -> dict[str, Any]:
    name, keys, *rest = np.random.get_state()  # noqa: NPY002  (the generator that libraries share)
    return {
        "python": random.getstate(),
        "numpy": [name, torch.from_numpy(keys.astype(np.int64)), *rest],
        "torch": torch.get_rng_state(),
        "device": _backend(device).get_rng_state() if device.type != "cpu" else None,
    }


def _set_random_states(states: dict[str, Any], device: torch.device) -> None:
    version, numbers, gauss = states["python"]
    random.setstate((version, tuple(numbers), gauss))
    name, keys, *rest = states["numpy"]
    np.random.set_state((name, keys.numpy().astype(np.uint32), *rest))  # noqa: NPY002
    torch.set_rng_state(states["torch"])
    if device.type != "cpu" and states["device"] is not None:
        _backend(device).set_rng_state(states["device"])


def _backend(device: torch.device) -> Any:
    return torch.cuda if device.type == "cuda" else torch.mps


def _train_metrics(module: LightningModule) -> dict[str, Any]:
    # A validation is repeated from its start and has nothing to continue.
    metrics = {name: part for name, part in module.named_modules() if hasattr(part, "metric_state")}
    return {name: metric for name, metric in metrics.items() if not name.startswith("val_")}


def _metric_states(module: LightningModule) -> dict[str, dict[str, Any]]:
    return {
        name: {"count": metric.update_count, "state": {key: value.cpu() for key, value in metric.metric_state.items()}}
        for name, metric in _train_metrics(module).items()
    }


def _add_metric_states(module: LightningModule, shares: list[dict[str, dict[str, Any]]]) -> None:
    """Add the counts of one rank or more, all of which are sums, to new metrics."""
    for name, metric in _train_metrics(module).items():
        counted = [share[name] for share in shares if name in share]
        for key in metric.metric_state:
            for share in counted:
                setattr(metric, key, getattr(metric, key) + share["state"][key].to(metric.device))
        # torchmetrics has no public way, and warns of a metric without updates, as on a rank without a share.
        metric._update_count = max(1, sum(share["count"] for share in counted))
