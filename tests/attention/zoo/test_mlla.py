import pytest
import torch

from fvit.attention import Linear, Mlla

from ..suite import randomise


def test_a_width_without_pairs_is_refused():
    with pytest.raises(ValueError, match="width 6 has no pairs of channels for rows and columns; take a multiple of 4"):
        Mlla(6, 2)


def test_an_even_convolution_is_refused():
    with pytest.raises(ValueError, match="conv=2 has no centre; take an odd width, or 0 for none"):
        Mlla(16, 4, conv=2)


def test_tokens_that_do_not_fill_the_grid_are_refused():
    module = Mlla(16, 4)
    module.set_layout((2, 2), 1)
    with pytest.raises(
        ValueError, match="a rotation of patches got 6 tokens where set_layout told of 1 before a grid of 2×2"
    ):
        module(torch.randn(1, 6, 16))


def test_where_nothing_is_turned_it_is_linear_attention():
    torch.manual_seed(0)
    module, linear = randomise(Mlla(16, 4, dtype=torch.float64)), Linear(16, 4, dtype=torch.float64)
    linear.load_state_dict(module.state_dict())
    x = torch.randn(2, 6, 16, dtype=torch.float64)
    module.set_layout((1, 1), 5)
    torch.testing.assert_close(module(x), linear(x))
    module.set_layout((1, 2), 4)
    assert not torch.allclose(module(x), linear(x))


def test_patches_meet_by_the_difference_of_their_places():
    """Without prefix tokens, moving all patches together changes nothing: an empty row before them, for one."""
    torch.manual_seed(0)
    module = randomise(Mlla(16, 4, dtype=torch.float64))
    x = torch.randn(1, 6, 16, dtype=torch.float64)
    module.set_layout((2, 3), 0)
    expected = module(x)
    module.set_layout((3, 3), 0)
    keep = (torch.arange(9) >= 3)[None, None, None]
    moved = module(torch.cat([torch.zeros(1, 3, 16, dtype=torch.float64), x], dim=1), attn_mask=keep)[:, 3:]
    torch.testing.assert_close(moved, expected)
