"""Stages of a run: what is trained, on which losses, how long and how fast, as a function of the step alone."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal

from timm.scheduler.scheduler import Scheduler
from torch.optim import Optimizer


@dataclass(frozen=True)
class Stage:
    """One stage.

    Attributes:
        name: its key in the configuration.
        length: its share of the run, relative to the other stages.
        lr: peak learning rate; the schedule starts anew in each stage.
        trains: the parameters that change: those of the exchanged ``attention``, or ``all``.
        losses: names of the losses that are on.
    """

    name: str
    length: float
    lr: float
    trains: Literal["attention", "all"]
    losses: tuple[str, ...]


class Stages:
    """Stages in order, over a run of so many updates.

    Since the step alone decides, a run resumes within a stage or between two without a state of its own.
    """

    def __init__(self, stages: Sequence[Stage], updates: int) -> None:
        total, self.stages = sum(stage.length for stage in stages), list(stages)
        ends = [round(updates * sum(stage.length for stage in stages[: i + 1]) / total) for i in range(len(stages))]
        self.spans = list(zip([0, *ends[:-1]], ends, strict=True))
        if short := [stage.name for stage, (start, end) in zip(stages, self.spans, strict=True) if start == end]:
            raise ValueError(
                f"distillation.stages.{short[0]} gets none of the {updates} updates of the run; raise its length, "
                "or train longer"
            )

    @staticmethod
    def parse(options: Mapping[str, Mapping[str, Any]]) -> list[Stage]:
        """The stages of a configuration."""
        return [Stage(name, **{**stage, "losses": tuple(stage["losses"])}) for name, stage in options.items()]

    def index(self, step: int) -> int:
        """Which stage the update number `step`, from 0, belongs to; the last one after the end of the run."""
        return next((i for i, (_, end) in enumerate(self.spans) if step < end), len(self.spans) - 1)

    def at(self, step: int) -> Stage:
        return self.stages[self.index(step)]

    def progress(self, step: int) -> float:
        """The part of its stage that lies behind an update, in [0, 1)."""
        start, end = self.spans[self.index(step)]
        return (step - start) / (end - start)


class StagedSchedule:
    """A schedule for each stage, of its length and with its peak.

    Args:
        stages: of the run.
        optimizer: its learning rates are `lr`, before layer decay.
        lr: the learning rate of the optimizer's options.
        build: a schedule for the optimizer and a number of updates.
    """

    def __init__(
        self, stages: Stages, optimizer: Optimizer, lr: float, build: Callable[[Optimizer, int], Scheduler]
    ) -> None:
        self.stages, self.optimizer, self.lr = stages, optimizer, lr
        self._schedules = [build(optimizer, end - start) for start, end in stages.spans]
        self.step_update(0)

    def step_update(self, num_updates: int) -> None:
        index = self.stages.index(num_updates)
        self._schedules[index].step_update(num_updates - self.stages.spans[index][0])
        for group in self.optimizer.param_groups:
            group["lr"] *= self.stages.stages[index].lr / self.lr

    def state_dict(self) -> dict[str, Any]:
        return {}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Nothing to do: the rate is a function of the step."""
