"""Stages as a function of the step, and their learning rates."""

import pytest
import torch

from fvit.training.optimization import build_scheduler
from fvit.training.stages import Stage, StagedSchedule, Stages

THREE = [
    Stage("attention", 1, 4e-3, "attention", ("attention",)),
    Stage("features", 1, 1e-3, "all", ("features",)),
    Stage("task", 2, 2e-3, "all", ("task", "soft")),
]


def test_stages_share_the_updates_of_a_run():
    stages = Stages(THREE, 10)
    assert stages.spans == [(0, 2), (2, 5), (5, 10)]
    assert [stages.at(step).name[0] for step in range(12)] == list("aafffttttttt")
    assert [stages.progress(step) for step in (0, 1, 2, 5, 9)] == [0, 0.5, 0, 0, 0.8]


def test_a_stage_without_updates_is_refused():
    with pytest.raises(ValueError, match=r"distillation\.stages\.attention gets none of the 2 updates"):
        Stages(THREE, 2)


def test_each_stage_has_a_schedule_of_its_length_and_peak():
    parameters = [torch.nn.Parameter(torch.zeros(1)) for _ in range(2)]
    optimizer = torch.optim.SGD([{"params": parameters[0], "lr_scale": 0.5}, {"params": parameters[1]}], lr=1e-3)
    options = {"sched": "cosine", "warmup_epochs": None, "warmup_lr": 0.0, "min_lr": 0.0}

    def build(optimizer, updates):
        return build_scheduler(optimizer, options, updates, per_epoch=10)

    schedule, rates = StagedSchedule(Stages(THREE, 160), optimizer, 1e-3, build), []
    for step in range(160):
        schedule.step_update(step)
        rates.append([group["lr"] for group in optimizer.param_groups])
    peaks = [max(rate for _, rate in rates[start:end]) for start, end in ((0, 40), (40, 80), (80, 160))]
    assert peaks == pytest.approx([4e-3, 1e-3, 2e-3], rel=0.05)
    assert [rates[step][1] for step in (0, 40, 80)] == [0, 0, 0]  # a warmup of an eighth of each
    assert [rates[step][1] for step in (5, 45, 90)] == pytest.approx([4e-3, 1e-3, 2e-3], rel=0.05)
    assert all(rates[step][1] < 1e-5 for step in (39, 79, 159))
    assert all(scaled == pytest.approx(rate / 2) for scaled, rate in rates)
    # A resumed run has the rates of one that was not interrupted, whatever the optimizer had.
    schedule.step_update(57)
    assert optimizer.param_groups[1]["lr"] == rates[57][1]
