import pytest
import torch

from fvit.attention import Mala


def test_heads_without_pairs_for_rows_and_columns_are_refused():
    with pytest.raises(
        ValueError, match=r"heads of width 6 have no pairs .* take num_heads so that dim / num_heads is a"
    ):
        Mala(24, 4, rotary=True)
    Mala(24, 4)


def test_a_kernel_without_a_centre_is_refused():
    with pytest.raises(ValueError, match="mala: conv=2 has no centre"):
        Mala(16, 4, conv=2)


@pytest.mark.parametrize(("options", "needed"), [({}, False), ({"gate": True}, False), ({"conv": 3}, True)])
def test_the_grid_is_needed_by_what_looks_at_it(options, needed):
    assert Mala(16, 4, **options).needs_grid == needed


def test_rotation_needs_the_grid_and_says_so():
    module = Mala(16, 4, rotary=True)
    assert module.needs_grid
    with pytest.raises(ValueError, match="a rotation of patches got 7 tokens where set_layout told of 0 before a grid"):
        module(torch.randn(1, 7, 16))


def test_scores_of_each_query_sum_to_one_without_add_ons():
    """With all values alike, each output is that value."""
    module = Mala(8, 2, qkv_bias=True, dtype=torch.float64)
    with torch.no_grad():
        module.qkv.weight[16:] = 0
        module.qkv.bias[16:] = torch.arange(8.0)
        module.proj.weight.copy_(torch.eye(8))
        module.proj.bias.zero_()
    out = module(torch.randn(1, 5, 8, dtype=torch.float64))
    torch.testing.assert_close(out, torch.arange(8.0, dtype=torch.float64).expand(1, 5, 8))
