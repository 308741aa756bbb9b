import copy

import pytest
import torch

from fvit.attention import Pola

from ..refs import pola
from ..suite import randomise


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"dim": 15, "num_heads": 5}, "heads of width 3 have no two halves"),
        ({"alpha": 0.0}, "alpha=0.0 leaves no power above 1"),
        ({"conv": 4}, "conv=4 has no centre; take an odd width, or 0 for none"),
    ],
    ids=str,
)
def test_what_cannot_be_is_refused(options, message):
    with pytest.raises(ValueError, match=message):
        Pola(**{"dim": 16, "num_heads": 4, **options})


def test_the_grid_is_needed_for_the_convolution_alone():
    assert Pola(16, 4, conv=3).needs_grid
    assert not Pola(16, 4).needs_grid


@pytest.mark.parametrize("scale", [1e-12, 1.0, 1e12])
def test_no_magnitude_is_out_of_range(scale):
    """Powers up to 5 of 1e12 are beyond float32, and so are their products; the averages are not."""
    torch.manual_seed(0)
    module = randomise(Pola(8, 2, qkv_bias=False), std=0.5)
    with torch.no_grad():
        module.power.fill_(10.0)
        module.qkv.weight[:16] *= scale
    x = torch.randn(1, 6, 8)
    exact = copy.deepcopy(module).double()
    expected = pola.reference(exact, x.double())
    torch.testing.assert_close(module(x).double(), expected, rtol=1e-3, atol=1e-4 * expected.abs().max().item())


def test_a_query_gathers_where_signs_are_equal_and_where_they_are_opposite():
    """One query of +1 sees a key of +1 in the first half of the values, and one of −1 in the second."""
    module = Pola(2, 1, dtype=torch.float64)
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
    module = Pola(16, 4, alpha=3.0)
    torch.testing.assert_close(1 + module.alpha * module.power.sigmoid(), torch.full((4, 1, 4), 2.5))
