import pytest
import torch
import torch.nn.functional as F

from fvit.attention import GFNet

from ..suite import randomise


def with_layout(grid, prefix=0, **options):
    torch.manual_seed(0)
    module = GFNet(4, 2, dtype=torch.float64, **options)
    module.set_layout(grid, prefix)
    return module


@pytest.mark.parametrize("grid", [(3, 4), (4, 3), (1, 1)])
def test_a_filter_of_ones_changes_nothing(grid):
    module = with_layout(grid)
    with torch.no_grad():
        module.filter.copy_(torch.tensor([1.0, 0.0]))
    x = torch.randn(2, grid[0] * grid[1], 4, dtype=torch.float64)
    torch.testing.assert_close(module(x), x)


def test_a_filter_of_phases_rolls_the_image():
    module = with_layout((3, 4))
    angles = -2 * torch.pi * torch.arange(3, dtype=torch.float64) / 3
    with torch.no_grad():
        module.filter.copy_(torch.stack([angles.cos(), angles.sin()], dim=-1)[:, None, None])
    x = torch.randn(2, 12, 4, dtype=torch.float64)
    torch.testing.assert_close(module(x), x.roll(4, dims=1))


def test_the_filter_covers_half_of_the_frequencies():
    assert with_layout((3, 4)).filter.shape == (3, 3, 4, 2)
    assert with_layout((4, 5)).filter.shape == (4, 3, 4, 2)


def test_another_grid_interpolates_the_filter_with_aligned_corners():
    module = randomise(with_layout((2, 4)))
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
    module = randomise(with_layout((2, 4)))
    before = module.filter.detach().clone()
    module.set_layout((2, 4), 3)
    torch.testing.assert_close(module.filter.detach(), before, rtol=0, atol=1e-15)
