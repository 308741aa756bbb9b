import pytest
import torch
import torch.nn.functional as F

from fvit.attention import GFNet

from ..suite import randomise


def laid_out(grid, prefix=0, **options):
    torch.manual_seed(0)
    module = GFNet(4, 2, dtype=torch.float64, **options)
    module.set_layout(grid, prefix)
    return module


@pytest.mark.parametrize("grid", [(3, 4), (4, 3), (1, 1)])
def test_a_filter_of_ones_changes_nothing(grid):
    module = laid_out(grid)
    with torch.no_grad():
        module.filter.copy_(torch.tensor([1.0, 0.0]))
    x = torch.randn(2, grid[0] * grid[1], 4, dtype=torch.float64)
    torch.testing.assert_close(module(x), x)


def test_a_filter_of_phases_moves_the_image_around():
    module = laid_out((3, 4))
    angles = -2 * torch.pi * torch.arange(3, dtype=torch.float64) / 3
    with torch.no_grad():
        module.filter.copy_(torch.stack([angles.cos(), angles.sin()], dim=-1)[:, None, None])
    x = torch.randn(2, 12, 4, dtype=torch.float64)
    torch.testing.assert_close(module(x), x.roll(4, dims=1))


def test_the_filter_has_the_shape_of_half_the_frequencies():
    assert laid_out((3, 4)).filter.shape == (3, 3, 4, 2)
    assert laid_out((4, 5)).filter.shape == (4, 3, 4, 2)


def test_another_grid_interpolates_the_filter_from_corner_to_corner():
    module = randomise(laid_out((2, 4)))
    before = module.filter.detach().clone()
    module.set_layout((4, 8), 1)
    assert module.filter.shape == (4, 5, 4, 2)
    for channel in range(4):
        for part in range(2):
            image = before[:, :, channel, part][None, None]
            expected = F.interpolate(image, size=(4, 5), mode="bicubic", align_corners=True)[0, 0]
            torch.testing.assert_close(module.filter[:, :, channel, part].detach(), expected)
    torch.testing.assert_close(module.filter[0, 0].detach(), before[0, 0])
    torch.testing.assert_close(module.filter[-1, -1].detach(), before[-1, -1])


def test_prefix_tokens_do_not_change_the_filter():
    module = randomise(laid_out((2, 4)))
    before = module.filter.detach().clone()
    module.set_layout((2, 4), 3)
    torch.testing.assert_close(module.filter.detach(), before, rtol=0, atol=1e-15)


def test_weights_of_another_grid_load():
    module, other = randomise(laid_out((2, 4))), laid_out((3, 5))
    other.load_state_dict(module.state_dict())
    module.set_layout((3, 5), 0)
    assert torch.equal(other.filter, module.filter)


def test_tokens_that_do_not_fill_the_grid_are_refused():
    with pytest.raises(
        ValueError, match="GFNet has weights for each token and got 7 tokens where set_layout told of 6 tokens"
    ):
        laid_out((2, 3))(torch.randn(1, 7, 4, dtype=torch.float64))
