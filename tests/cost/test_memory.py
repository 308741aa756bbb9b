import pytest
import torch
from torch import nn

from fvit.cost.memory import peak_of, saved_for_backward

MIB = 2**20


def test_a_chain_of_known_layers_saves_what_they_need():
    """A linear layer keeps its input, a ReLU its output: 3 tensors of 8×64 floats, the second shared by two layers."""
    model = nn.Sequential(nn.Linear(64, 64), nn.ReLU(), nn.Linear(64, 64))
    x = torch.randn(8, 64)
    assert saved_for_backward(lambda: model(x), model.parameters()) == 2 * 8 * 64 * 4
    assert saved_for_backward(lambda: model(x)) > 2 * 8 * 64 * 4, "weights are counted unless they are named"


def test_nothing_is_saved_without_gradients():
    model = nn.Linear(4, 4)
    with torch.no_grad():
        assert saved_for_backward(lambda: model(torch.randn(2, 4)), model.parameters()) == 0


def test_the_peak_is_that_of_the_step():
    def step():
        torch.ones(64 * MIB // 4)  # 64 MiB, gone afterwards

    peak = peak_of(step, torch.device("cpu"))
    if peak is None:
        pytest.skip("this system does not tell the largest resident size anew")
    assert 60 * MIB < peak < 100 * MIB
    assert peak_of(lambda: None, torch.device("cpu")) < 16 * MIB


def test_a_device_that_does_not_tell_has_no_peak():
    assert peak_of(lambda: None, torch.device("meta")) is None
