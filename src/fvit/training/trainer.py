"""Lightning's Trainer as a configuration describes it, and what is read off it after a run."""

import logging
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from hydra.utils import instantiate
from lightning import LightningDataModule, Trainer
from lightning.fabric.plugins.environments import LightningEnvironment
from lightning.pytorch.callbacks import Checkpoint
from lightning.pytorch.strategies import ModelParallelStrategy

from fvit.callbacks import preemption
from fvit.callbacks.data_wait import DataWait
from fvit.callbacks.device_hours import DeviceHours
from fvit.callbacks.grad_norm import GradNorm
from fvit.callbacks.nonfinite import NonFiniteGuard
from fvit.callbacks.progress import RunProgress
from fvit.callbacks.random_states import RandomStates
from fvit.callbacks.resume_state import ResumePoint
from fvit.callbacks.skipped_images import SkippedImages
from fvit.callbacks.throughput import Throughput
from fvit.callbacks.usage import Usage
from fvit.callbacks.world_size import WorldSizeCheck
from fvit.config.batch_plan import BatchPlan
from fvit.cost import Cost
from fvit.launch.devices import check_devices, local_devices
from fvit.launch.ranks import external_rank
from fvit.launch.signals import Stopped
from fvit.loggers.csv import CurveStart
from fvit.loggers.wandb import RunLogger
from fvit.training.checkpoint_io import AtomicCheckpointIO

_KILLED = 255  # to W&B


def quiet_lightning() -> None:
    """Lightning installs a handler of its own beside Hydra's, and tells what our summary tells better."""
    for name in ("lightning.pytorch", "lightning.fabric"):
        logging.getLogger(name).handlers.clear()
        logging.getLogger(name).setLevel(logging.WARNING)
    # Lightning 2.6 on torch 2.14: its own use of a deprecated class.
    warnings.filterwarnings("ignore", message=".*LeafSpec.*", category=FutureWarning)
    # Going on in a run's own folder is what it is for, and the number of workers is the user's to choose.
    warnings.filterwarnings("ignore", message="Checkpoint directory .* exists and is not empty")
    warnings.filterwarnings("ignore", message="The '.*' does not have many workers")
    # A run that averages weights is not sharded, and then nothing is done in that hook.
    warnings.filterwarnings("ignore", message="You're using the WeightAveraging callback with a model that overrides")
    # The DataModule keeps the position itself, because Lightning drops a loader's state on occasion.
    warnings.filterwarnings("ignore", message="You're resuming from a checkpoint that ended before")


def build(config: dict[str, Any]) -> Trainer:
    """The Trainer with its loggers and callbacks.

    Raises:
        ValueError: the accelerator is not on this machine, or lacks devices.
    """
    quiet_lightning()
    options = instantiate(config["trainer"], _convert_="all")
    check_devices(options)
    processes = local_devices(options) * options["num_nodes"]
    if external_rank() is None:
        # Lightning would take a single task of SLURM's for the whole world, or the tasks of a job for ranks.
        options.setdefault("plugins", LightningEnvironment())
    if options["strategy"] == "fsdp":
        # One file with whole weights, as on one device, which any hardware loads.
        options["strategy"] = ModelParallelStrategy(
            data_parallel_size=processes,
            tensor_parallel_size=1,
            save_distributed_checkpoint=False,
        )
    loggers = [instantiate(logger) for logger in config["logger"].values()]
    callbacks = [instantiate(callback) for callback in config["callbacks"].values()]
    callbacks += [WorldSizeCheck(processes), ResumePoint(), SkippedImages(), RunProgress(), NonFiniteGuard()]
    callbacks += [DataWait(), GradNorm(), Usage(), CurveStart(), RandomStates()]
    callbacks += [preemption.Stopping()]  # last: what others do after a batch belongs into its checkpoint
    trainer = Trainer(
        **options,
        default_root_dir=config["output_dir"],
        logger=loggers or False,
        callbacks=callbacks,
        enable_checkpointing=any(isinstance(callback, Checkpoint) for callback in callbacks),
        enable_model_summary=False,
        num_sanity_val_steps=0,
        # The DataModule shares out the images itself: Lightning's sampler repeats some in validation.
        use_distributed_sampler=False,
    )
    trainer.strategy.checkpoint_io = AtomicCheckpointIO()
    return trainer


def apply_plan(trainer: Trainer, plan: BatchPlan, images: int) -> None:
    """Set what depends on the number of devices, which the Trainer alone knows, and of training images.

    Raises:
        ValueError: validations would come within an optimizer step, or never.
    """
    trainer.accumulate_grad_batches = plan.accumulate
    # An epoch shorter than the logging interval would log no training loss.
    limit = trainer.limit_train_batches
    batches = images // plan.global_batch * plan.accumulate
    shortest = max(1, min(batches, limit) if isinstance(limit, int) else int(batches * limit))
    trainer.log_every_n_steps = min(trainer.log_every_n_steps, shortest)
    _validate_after_steps(trainer, plan.accumulate, shortest)
    # First: what they log of a step belongs into that step's checkpoint.
    trainer.callbacks[:0] = [Throughput(plan.global_batch, plan.accumulate), DeviceHours()]


def _validate_after_steps(trainer: Trainer, accumulate: int, batches: int) -> None:
    """Have no validation cut an optimizer step in two: the checkpoint that follows it holds no gradients."""
    interval = trainer.val_check_interval
    if isinstance(interval, float):
        if interval < 1:
            trainer.val_check_interval = min(batches, max(1, int(batches * interval) // accumulate) * accumulate)
        return
    if interval % accumulate:
        below, above = interval // accumulate * accumulate, (interval // accumulate + 1) * accumulate
        raise ValueError(
            f"trainer.val_check_interval={interval} batches end within an optimizer step, which takes {accumulate}; "
            f"take {f'{below} or {above}' if below else above}"
        )
    if interval > batches and trainer.check_val_every_n_epoch is not None:
        raise ValueError(
            f"trainer.val_check_interval={interval} is more than the {batches} batches of an epoch; "
            "to count on over epochs, add +trainer.check_val_every_n_epoch=null"
        )


def log_beginning(trainer: Trainer, config: dict[str, Any], cost: Cost, data: LightningDataModule) -> None:
    """Tell the loggers the whole resolved configuration, and W&B also what the model costs and which images it sees."""
    for logger in trainer.loggers:
        logger.log_hyperparams(config)
        if isinstance(logger, RunLogger):
            logger.log_dataset(_name_of(data), data.source.facts(), data.hparams.get("root"))
            logger.log_summary(costs(cost))


def _name_of(data: LightningDataModule) -> str:
    """Of a set of images; a folder of somebody's own has the name of its last part."""
    name = data.hparams.name
    return Path(data.hparams.root).expanduser().resolve().name if name == "folder" else name


def log_results(trainer: Trainer, metrics: dict[str, float]) -> None:
    """Have W&B's tables hold what metrics.json holds."""
    for logger in trainer.loggers:
        if isinstance(logger, RunLogger):
            logger.log_summary(metrics)


@contextmanager
def closing(trainer: Trainer) -> Iterator[None]:
    """Close loggers at the end, W&B with the right status; an interrupt stays one, and so does a signal's end."""
    code, preempted = 1, False
    try:
        yield
        code = 0
    except Stopped:
        preempted = True
        raise
    except KeyboardInterrupt:
        code = _KILLED
        raise
    except SystemExit as stop:
        # What Lightning makes of Ctrl-C, and how it ends when told to.
        told = preemption.why(trainer)
        preempted = told is not None
        code = 1 if preempted else _KILLED
        raise told or KeyboardInterrupt from stop
    finally:
        for logger in trainer.loggers:
            logger.finalize("failed" if code else "success")
            if isinstance(logger, RunLogger):
                logger.close(trainer, best_scores(trainer), code, preempted)


def status(trainer: Trainer) -> str:
    """``pruned`` if a study has stopped the run, else ``finished``."""
    return "pruned" if any(getattr(callback, "pruned", False) for callback in trainer.callbacks) else "finished"


def results(trainer: Trainer, cost: Cost, before: dict[str, float]) -> dict[str, float]:
    """The last metrics, the best accuracy, throughput and cost, as plain numbers.

    Args:
        trainer: after training.
        cost: of the model.
        before: metrics of the checkpoint from which the run went on: the last ones, if nothing was left to train.
    """
    metrics = before | {name: value.item() for name, value in trainer.callback_metrics.items()}
    return metrics | best_scores(trainer) | costs(cost)


def best_scores(trainer: Trainer) -> dict[str, float]:
    """What the best checkpoints are the best by."""
    return {
        f"best/{checkpoint.monitor}": checkpoint.best_model_score.item()
        for checkpoint in trainer.checkpoint_callbacks
        if checkpoint.monitor is not None and checkpoint.best_model_score is not None
    }


def costs(cost: Cost) -> dict[str, float]:
    """What an image costs, by the names of metrics."""
    return {"cost/params": cost.params, "cost/macs": cost.macs, "cost/macs_paper": cost.macs_paper}
