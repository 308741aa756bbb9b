"""Builds Lightning's Trainer from a configuration."""

import logging
import pkgutil
import warnings
from contextlib import suppress
from typing import Any

from hydra.utils import instantiate
from lightning import LightningDataModule, LightningModule, Trainer
from lightning.fabric.plugins.environments import LightningEnvironment
from lightning.pytorch.callbacks import Checkpoint, ProgressBar

from fvit.config.batch_plan import BatchPlan
from fvit.config.legacy import moved
from fvit.config.validation import check_arguments
from fvit.launch import signals
from fvit.launch.devices import world_size
from fvit.launch.ranks import external_rank
from fvit.launch.run_dir import best_scores
from fvit.training.checkpoint import AtomicCheckpointIO
from fvit.training.strategy import build_strategy

# Arguments of Lightning's Trainer that build_trainer sets.
_RESERVED = (
    *("logger", "callbacks", "accumulate_grad_batches", "default_root_dir", "use_distributed_sampler"),
    *("enable_checkpointing", "enable_progress_bar", "enable_model_summary", "num_sanity_val_steps"),
)


def build_trainer(config: dict[str, Any], plan: BatchPlan | None = None, images: int = 0) -> Trainer:
    """The Trainer with the loggers and callbacks of the configuration, in their order.

    Args:
        config: has ``trainer``, ``ddp``, ``logger``, ``callbacks`` and ``output_dir``.
        plan: how batches are split and accumulated; None to evaluate.
        images: number of training images.

    Raises:
        ConfigError: the Trainer, a logger or a callback does not take an option.
        ValueError: devices are missing, a static graph is to accumulate gradients, or validations would fall within an
            optimizer step or never take place.
    """
    _silence_lightning()
    check_arguments(Trainer, config["trainer"], "trainer", _RESERVED)
    options = instantiate(config["trainer"], _convert_="all")
    processes = world_size(options)
    # Else Lightning would take a single SLURM task for the whole world, or the tasks of a job for ranks.
    plugins = options.pop("plugins", [LightningEnvironment()] if external_rank() is None else [])
    if plan is not None and plan.accumulate > 1 and config["ddp"]["static_graph"]:
        raise ValueError(
            "ddp.static_graph=true fails inside torch where gradients are accumulated, here over "
            f"{plan.accumulate} micro batches: leave it out, or raise micro_batch_size"
        )
    options["strategy"] = build_strategy(options["strategy"], processes, config["ddp"])
    if options.get("benchmark") is None:
        # cuDNN's own choice of algorithms varies from run to run.
        options["benchmark"] = options["accelerator"] == "gpu" and not options.get("deterministic")
    if plan is not None:
        options |= _intervals(options, plan, images)
        if config["data"].get("size_schedule") and plan.accumulate > 1:
            options |= _reloading(options)
    loggers, callbacks = (_instantiate(config, group) for group in ("logger", "callbacks"))
    return Trainer(
        **options,
        default_root_dir=config["output_dir"],
        logger=loggers or False,
        callbacks=callbacks,
        plugins=[AtomicCheckpointIO(), *plugins],
        enable_checkpointing=any(isinstance(callback, Checkpoint) for callback in callbacks),
        enable_progress_bar=any(isinstance(callback, ProgressBar) for callback in callbacks),
        enable_model_summary=False,
        num_sanity_val_steps=0,
        # The DataModule distributes the images: Lightning's sampler repeats some in validation.
        use_distributed_sampler=False,
    )


def results(trainer: Trainer) -> dict[str, float]:
    """The last value of each metric, and the scores of the best checkpoints."""
    return {name: value.item() for name, value in trainer.callback_metrics.items()} | best_scores(trainer)


def test(trainer: Trainer, module: LightningModule, data: LightningDataModule) -> dict[str, float]:
    """The metrics of the test split after training; none without one, or of a run that was pruned."""
    if data.source.test is None or any(getattr(callback, "pruned", False) for callback in trainer.callbacks):
        return {}
    signals.raise_received()  # one that came after the last step
    [metrics] = trainer.test(module, data, verbose=False)
    return metrics


def _instantiate(config: dict[str, Any], group: str) -> list[Any]:
    """The objects of a config group, in its order."""
    objects = []
    for name, options in config[group].items():
        options = moved(options)
        target = None
        with suppress(ImportError, AttributeError, ValueError):  # Hydra says why
            target = pkgutil.resolve_name(options.get("_target_") or "?")
        if target is not None:
            check_arguments(target, options, f"{group}.{name}")
        objects.append(instantiate(options))
    return objects


def _intervals(options: dict[str, Any], plan: BatchPlan, images: int) -> dict[str, Any]:
    """The Trainer's options that count batches: accumulation, logging and validation."""
    limit = options.get("overfit_batches") or int(options.get("fast_dev_run", 0)) or options.get("limit_train_batches")
    batches = images // plan.global_batch * plan.accumulate
    if limit is not None:
        batches = min(batches, limit) if isinstance(limit, int) else int(batches * limit)
    batches = max(1, batches)
    steps = -(-batches // plan.accumulate)
    return {
        "accumulate_grad_batches": plan.accumulate,
        # An epoch shorter than the logging interval would log no training loss.
        "log_every_n_steps": min(options.get("log_every_n_steps") or 50, steps),
        "val_check_interval": _validation_interval(options, plan.accumulate, batches),
    }


def _reloading(options: dict[str, Any]) -> dict[str, Any]:
    """The Trainer's option by which each epoch has micro batches of its own, as small images allow.

    Raises:
        ValueError: another option counts micro batches.
    """
    counting = ("val_check_interval", "limit_train_batches", "overfit_batches")
    if given := [name for name in counting if options.get(name) not in (None, 0, 1.0)]:
        raise ValueError(
            f"trainer.{given[0]}={options[given[0]]} counts micro batches, which data.size_schedule merges where "
            "images are small: leave it out, or set micro_batch_size=null so that a step is one batch"
        )
    return {"reload_dataloaders_every_n_epochs": 1}


def _validation_interval(options: dict[str, Any], accumulate: int, batches: int) -> int | float | None:
    """Batches between two validations: whole steps, because the checkpoint that follows one holds no gradients."""
    interval = options.get("val_check_interval")
    if interval is None or options.get("fast_dev_run") or (isinstance(interval, float) and interval == 1):
        return interval
    if isinstance(interval, float):
        return min(batches, max(1, int(batches * interval) // accumulate) * accumulate)
    if interval % accumulate:
        below, above = interval // accumulate * accumulate, (interval // accumulate + 1) * accumulate
        raise ValueError(
            f"trainer.val_check_interval={interval} batches end within an optimizer step, which takes {accumulate}; "
            f"use {f'{below} or {above}' if below else above}"
        )
    if interval > batches and options.get("check_val_every_n_epoch", 1) is not None:
        raise ValueError(
            f"trainer.val_check_interval={interval} is more than the {batches} batches of an epoch; "
            "to count across epochs, add +trainer.check_val_every_n_epoch=null"
        )
    return interval


def _silence_lightning() -> None:
    """Drop Lightning's log handler, which repeats Hydra's, and warnings about what is intended here."""
    for name in ("lightning.pytorch", "lightning.fabric"):
        logging.getLogger(name).handlers.clear()
        logging.getLogger(name).setLevel(logging.WARNING)
    # Lightning 2.6 uses a class that torch 2.14 deprecates.
    warnings.filterwarnings("ignore", message=".*LeafSpec.*", category=FutureWarning)
    # Runs resume in their own directory, and the number of workers is the user's choice.
    warnings.filterwarnings("ignore", message="Checkpoint directory .* exists and is not empty")
    warnings.filterwarnings("ignore", message="The '.*' does not have many workers")
    # Frozen parts compute as in evaluation.
    warnings.filterwarnings("ignore", message="Found .* in eval mode at the start of training")
    # `configure_model` does nothing unless the model is sharded, and averaging is refused then.
    warnings.filterwarnings("ignore", message="You're using the WeightAveraging callback with a model that overrides")
    # The DataModule keeps its position itself, because Lightning sometimes drops a loader's state.
    warnings.filterwarnings("ignore", message="You're resuming from a checkpoint that ended before")
