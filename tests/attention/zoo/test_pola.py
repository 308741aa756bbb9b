import copy

import pytest
import torch

from fvit.attention import PoLA

from ..refs import pola
from ..suite import randomise


@pytest.mark.parametrize("scale", [1e-12, 1.0, 1e12])
def test_extreme_magnitudes_do_not_overflow(scale):
    """Powers up to 5 of 1e12 and their products overflow float32; the averages do not."""
    torch.manual_seed(0)
    module = randomise(PoLA(8, 2, qkv_bias=False), std=0.5)
    with torch.no_grad():
        module.power.fill_(10.0)
        module.qkv.weight[:16] *= scale
    x = torch.randn(1, 6, 8)
    exact = copy.deepcopy(module).double()
    expected = pola.reference(exact, x.double())
    torch.testing.assert_close(module(x).double(), expected, rtol=1e-3, atol=1e-4 * expected.abs().max().item())


def test_equal_and_opposite_signs_select_their_half_of_the_values():
    """A query of +1 reads a key of +1 in the first half of the values, and one of −1 in the second."""
    module = PoLA(2, 1, dtype=torch.float64)
    with torch.no_grad():
        module.qkv.weight.zero_()
        module.qkv.weight[0, 0] = module.qkv.weight[2, 0] = 1  # query and key: the first channel
        module.qkv.weight[4, 1] = module.qkv.weight[5, 1] = 1  # both channels of the value: the second
        module.qkv.bias.zero_()
        module.gate.weight.zero_()
        module.gate.bias.fill_(1)
        module.proj.weight.copy_(torch.eye(2))
        module.proj.bias.zero_()
    out = module(torch.tensor([[[1.0, 5.0], [-1.0, 7.0]]], dtype=torch.float64))
    assert out[0].tolist() == [[5, 7], [7, 5]]


def test_powers_start_in_the_middle():
    module = PoLA(16, 4, alpha=3.0)
    torch.testing.assert_close(1 + module.alpha * module.power.sigmoid(), torch.full((4, 1, 4), 2.5))
