"""The LightningModule of a conversion in stages: first each attention learns its teacher's, then the whole model."""

from collections.abc import Mapping
from typing import Any

from torch.optim import Optimizer

from fvit.attention import Mechanism
from fvit.models.hosts import sites
from fvit.training.distiller import Distiller
from fvit.training.optimization import build_scheduler
from fvit.training.stages import StagedSchedule, Stages


class StagedDistiller(Distiller):
    """A Distiller with losses, trained parameters and learning rate by stage.

    After LoLCATs (Zhang et al., arXiv:2410.10254), which first fits each new attention to the output of the softmax
    that it replaces, given the same input, then trains on the task.

    Args:
        distillation: as in `Distiller`, and ``stages``, by name the arguments of `Stage`. A loss is on in the stages
            that list it; its `start`, `end` and `schedule` refer to each of them.
        shared: the other arguments of `Distiller`, by name. The schedule starts anew in each stage, with the learning
            rate of the stage in place of the optimizer's.

    Raises:
        ValueError: a stage lists a loss without a weight, or a weighted loss is in no stage.
    """

    def __init__(self, *, distillation: Mapping[str, Any], **shared: Any) -> None:
        super().__init__(distillation=distillation, **shared)
        self._stages = Stages.parse(distillation["stages"])
        on = {name for name, weight in self.weights.items() if weight.weight}
        for stage in self._stages:
            if missing := [name for name in stage.losses if name not in on]:
                raise ValueError(
                    f"distillation.stages.{stage.name}.losses has {missing[0]}, which has no weight; set "
                    f"distillation.{missing[0]}.weight"
                )
        if idle := sorted(on - {name for stage in self._stages for name in stage.losses}):
            raise ValueError(f"distillation.{idle[0]} has a weight, but no stage has {idle[0]} among its losses")
        # Others equal their teacher's, and weight decay alone would move them.
        new = {report.block for report in getattr(self.model, "exchange_report", ())}
        attentions = [
            site.block.attn
            for site in sites(self.model)
            if isinstance(site.block.attn, Mechanism) and (not new or site.index in new)
        ]
        self._attention = {id(parameter) for attention in attentions for parameter in attention.parameters()}
        frozen = {id(parameter) for parameter in self.frozen.parameters}
        idle = [stage.name for stage in self._stages if stage.trains == "attention"]
        if idle and self._attention and self._attention <= frozen:
            raise ValueError(
                f"distillation.stages.{idle[0]} trains the attention, which model.freeze={self.frozen.part} freezes: "
                "leave model.freeze out"
            )
        self.stages: Stages | None = None  # known with the length of the run

    def facts(self) -> list[tuple[str, str]]:
        total = sum(stage.length for stage in self._stages)
        rows = [
            (
                f"stage {stage.name}",
                f"{100 * stage.length / total:.0f} % of the run, lr {stage.lr:g}, trains {stage.trains}: "
                f"{', '.join(stage.losses)}",
            )
            for stage in self._stages
        ]
        return [*super().facts(), *rows]

    def loss_weights(self) -> dict[str, float]:
        stage, progress = self.stages.at(self.global_step), self.stages.progress(self.global_step)
        return {name: weight(progress) if name in stage.losses else 0.0 for name, weight in self.weights.items()}

    def on_before_optimizer_step(self, optimizer: Optimizer) -> None:
        """Leave out the parameters that the stage does not train; DDP has reduced the gradients of all by now."""
        if self.stages.at(self.global_step).trains == "all":
            return
        for group in optimizer.param_groups:
            for parameter in group["params"]:
                if id(parameter) not in self._attention:
                    parameter.grad = None

    def build_scheduler(self, optimizer: Optimizer, updates: int, per_epoch: int) -> StagedSchedule:
        if self.trainer.fast_dev_run:  # its step is one of the first stage, whatever the lengths
            updates = 100
        self.stages = Stages(self._stages, updates)

        def build(optimizer: Optimizer, updates: int) -> Any:
            return build_scheduler(optimizer, self.hparams.scheduler, updates, per_epoch)

        return StagedSchedule(self.stages, optimizer, self.hparams.optimizer["lr"], build)
