"""Lightning's strategies with their options."""

from datetime import timedelta

import pytest
import torch
from lightning.fabric.plugins.environments import LightningEnvironment
from lightning.pytorch.strategies import DDPStrategy, ModelParallelStrategy
from torch import nn

from fvit.training.strategy import build_strategy

OPTIONS = {"gradient_as_bucket_view": True, "static_graph": False, "timeout": 30}


def test_ddp_takes_its_options():
    strategy = build_strategy("ddp", 2, {"gradient_as_bucket_view": False, "static_graph": True, "timeout": 1.5})
    assert isinstance(strategy, DDPStrategy)
    assert strategy._ddp_kwargs == {
        "find_unused_parameters": False,
        "gradient_as_bucket_view": False,
        "static_graph": True,
    }
    assert strategy._timeout == timedelta(seconds=90)


@pytest.mark.parametrize("unused", [False, True])
def test_unused_parameters_are_looked_for_if_asked(unused):
    strategy = build_strategy("ddp_find_unused_parameters_true" if unused else "ddp", 2, OPTIONS)
    assert strategy._ddp_kwargs["find_unused_parameters"] is unused
    assert strategy._ddp_kwargs["gradient_as_bucket_view"] is True


@pytest.mark.parametrize("batch_norm", [False, True])
def test_buffers_are_sent_where_they_change(process_group, batch_norm):
    model = nn.Sequential(nn.Linear(4, 4), nn.BatchNorm1d(4) if batch_norm else nn.Identity())
    model.register_buffer("table", torch.arange(4))
    strategy = build_strategy("ddp", 1, OPTIONS)
    strategy.parallel_devices, strategy.cluster_environment = [torch.device("cpu")], LightningEnvironment()
    assert strategy._setup_model(model).broadcast_buffers is batch_norm


def test_fsdp_has_the_timeout():
    strategy = build_strategy("fsdp", 2, {**OPTIONS, "timeout": 5})
    assert isinstance(strategy, ModelParallelStrategy)
    assert strategy._timeout == timedelta(minutes=5)


def test_one_device_needs_no_strategy():
    assert build_strategy("auto", 1, OPTIONS) == "auto"
