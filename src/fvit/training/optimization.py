"""The optimizer, its schedule, and the learning rates of its groups."""

from collections.abc import Mapping
from typing import Any

from timm.optim import list_optimizers
from timm.scheduler import create_scheduler_v2
from timm.scheduler.scheduler import Scheduler
from torch import nn
from torch.optim import Optimizer

from fvit.config.errors import did_you_mean
from fvit.training.freezing import classifier_parameters
from fvit.training.fused import create_optimizer


def build_optimizer(model: nn.Module, options: Mapping[str, Any]) -> Optimizer:
    """timm's optimizer with no-decay groups, and the head in groups of its own if it has its own learning rate.

    Args:
        model: whose weights it trains.
        options: arguments of `create_optimizer`; and ``head_lr``, the classifier's learning rate, which
            follows the same schedule; None for that of its layer.

    Raises:
        ValueError: timm, torch or apex refuses the options, or the model has no classifier.
    """
    options = dict(options)
    head_lr = options.pop("head_lr", None)
    try:
        optimizer = create_optimizer(model, options, next(model.parameters()).device)
    except (ValueError, TypeError, AssertionError, ImportError, RuntimeError) as error:  # of timm, torch or apex
        near = ""
        if "not found" in str(error):
            near = (
                did_you_mean(options["opt"], list_optimizers()) or "; timm.optim.list_optimizers() lists what there is"
            )
        raise ValueError(f"optimizer.opt={options['opt']} cannot be built: {error}{near}") from error
    if head_lr is not None:
        _scale_head(optimizer, set(classifier_parameters(model)), head_lr / options["lr"])
    return optimizer


def build_scheduler(optimizer: Optimizer, options: Mapping[str, Any], updates: int, per_epoch: int) -> Scheduler:
    """timm's schedule for a run of `updates`, of which an epoch has `per_epoch`.

    Args:
        optimizer: whose learning rates it sets at every update.
        options: arguments of ``timm.scheduler.create_scheduler_v2``, with lengths in epochs; ``warmup_epochs=None`` is
            an eighth of the run, at most 5 epochs.
        updates: of the whole run.
        per_epoch: updates of one epoch.

    Raises:
        ValueError: the schedule does not fit into the run.
    """
    options, epochs = dict(options), updates / per_epoch
    if options.get("warmup_epochs", 0) is None:
        options["warmup_epochs"] = min(5, epochs / 8)
    length = {"num_epochs": epochs, "updates_per_epoch": per_epoch, "step_on_epochs": False}
    try:
        scheduler, _ = create_scheduler_v2(optimizer, **length, **options)
    except ValueError as error:
        raise ValueError(
            f"the schedule does not fit into {updates} updates, {per_epoch} per epoch ({error}); "
            "change scheduler.warmup_epochs or scheduler.decay_epochs, or train longer"
        ) from error
    return scheduler


def scheduled_rate(optimizer: Optimizer) -> float:
    """The learning rate of the schedule, which groups with a factor of their own multiply by it."""
    group = min(optimizer.param_groups, key=lambda group: abs(group.get("lr_scale", 1.0) - 1))
    return group["lr"] / group.get("lr_scale", 1.0)


def _scale_head(optimizer: Optimizer, head: set[nn.Parameter], scale: float) -> None:
    """Move the weights of the head into groups whose learning rate timm's schedules multiply by `scale`."""
    groups, optimizer.param_groups = optimizer.param_groups, []
    for group in groups:
        rest = [parameter for parameter in group["params"] if parameter not in head]
        own = [parameter for parameter in group["params"] if parameter in head]
        if rest:
            optimizer.add_param_group({**group, "params": rest})
        if own:
            optimizer.add_param_group({**group, "params": own, "lr_scale": scale})
