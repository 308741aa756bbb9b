"""Fused optimizers: which take it, and what they learn; torch has them on a CPU, too."""

import pytest
import torch
from lightning.pytorch.plugins import MixedPrecision
from torch import nn

from fvit.training.fused import create_optimizer

CUDA, CPU = torch.device("cuda"), torch.device("cpu")


def fused(options, device=CUDA):
    """Whether the optimizer of a model that is on a CPU in truth is fused."""
    optimizer = create_optimizer(nn.Linear(2, 2), {"lr": 0.1, **options}, device)
    return optimizer.param_groups[0].get("fused")


@pytest.mark.parametrize("opt", ["adamw", "adam", "sgd", "lookahead_adamw", "AdamW"])
def test_on_cuda_where_the_class_takes_it(opt):
    assert fused({"opt": opt}) is True
    assert not fused({"opt": opt}, CPU)


@pytest.mark.parametrize("opt", ["lamb", "lion", "muon"])
def test_not_where_the_class_does_not(opt):
    assert not fused({"opt": opt})


@pytest.mark.parametrize("options", [{"fused": False}, {"foreach": True}], ids=str)
def test_the_user_may_choose(options):
    assert not fused({"opt": "adamw", **options})
    assert fused({"opt": "adamw", "fused": True}, CPU) is True


def test_it_learns_the_same():
    weights = []
    for device in (CUDA, CPU):
        torch.manual_seed(0)
        model = nn.Sequential(nn.Linear(8, 16), nn.LayerNorm(16), nn.Linear(16, 4))
        optimizer = create_optimizer(model, {"opt": "adamw", "lr": 1e-2, "weight_decay": 0.05}, device)
        for _ in range(5):
            model(torch.randn(16, 8)).square().sum().backward()
            optimizer.step()
            optimizer.zero_grad()
        weights.append(nn.utils.parameters_to_vector(model.parameters()))
    torch.testing.assert_close(*weights, rtol=1e-5, atol=1e-6)


def test_its_gradients_can_be_clipped_in_mixed_precision():
    model = nn.Linear(2, 2)
    optimizer = create_optimizer(model, {"opt": "adamw", "lr": 0.1}, CUDA)
    model(torch.ones(3, 2)).sum().backward()
    MixedPrecision("bf16-mixed", "cpu").clip_gradients(optimizer, 0.01)
    assert nn.utils.get_total_norm([weight.grad for weight in model.parameters()]) == pytest.approx(0.01)
