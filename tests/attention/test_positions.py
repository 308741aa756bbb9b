import math

import pytest
import torch

from fvit.attention.positions import Rotary


def rotated(x, grid, prefix=0, **options):
    """x [N, d] as the tokens of one head."""
    rotary = Rotary("test", x.shape[-1], dtype=x.dtype, **options)
    if grid:
        rotary.set_layout(grid, prefix)
    return rotary(x[None, None])[0, 0]


def test_pairs_rotate_by_row_and_by_column():
    """With d = 4 the first pair rotates by 1 per row, the second by 1 per column."""
    x = torch.tensor([[1.0, 0.0, 1.0, 0.0]], dtype=torch.float64).expand(6, -1)
    for n, token in enumerate(rotated(x, (2, 3))):
        row, column = divmod(n, 3)
        expected = [math.cos(row), math.sin(row), math.cos(column), math.sin(column)]
        torch.testing.assert_close(token, torch.tensor(expected, dtype=torch.float64))


@pytest.mark.parametrize(
    ("options", "expected"),
    [({}, [1.0, 1e-2, 1e-4]), ({"inclusive": False}, [1.0, 10 ** (-4 / 3), 10 ** (-8 / 3)])],
    ids=["inclusive", "exclusive"],
)
def test_speeds_decrease_from_1(options, expected):
    out = rotated(torch.tensor([[1.0, 0.0] * 6], dtype=torch.float64).expand(2, -1), (2, 1), **options)[1]
    angles = torch.atan2(out[1::2], out[::2])
    torch.testing.assert_close(angles, torch.tensor([*expected, 0, 0, 0], dtype=torch.float64))


def test_products_depend_only_on_relative_positions():
    q, k = torch.randn(2, 8, dtype=torch.float64, generator=torch.Generator().manual_seed(0))
    at_q, at_k = (rotated(t.expand(20, -1), (4, 5)).unflatten(0, (4, 5)) for t in (q, k))
    for down, right in ((0, 0), (1, 2), (3, 1)):
        products = (at_q[: 4 - down, : 5 - right] * at_k[down:, right:]).sum(dim=-1)
        torch.testing.assert_close(products, products[0, 0].expand_as(products))


def test_norms_and_prefix_tokens_are_preserved():
    x = torch.randn(8, 8, dtype=torch.float64, generator=torch.Generator().manual_seed(0))
    out = rotated(x, (2, 3), prefix=2)
    torch.testing.assert_close(out.norm(dim=1), x.norm(dim=1))
    assert torch.equal(out[:3], x[:3])  # the first patch is at row 0 and column 0
    assert not torch.allclose(out[3:], x[3:])


def test_positions_are_exact_in_bfloat16():
    x = torch.ones(300, 4, dtype=torch.float64)
    expected = rotated(x, (300, 1))
    assert (rotated(x.bfloat16(), (300, 1)) - expected).abs().max() < 1e-2


@pytest.mark.parametrize("grid", [None, (2, 2), (6, 1)], ids=str)
def test_tokens_that_do_not_fill_the_grid_are_refused(grid):
    with pytest.raises(ValueError, match="a rotation of patches got 7 tokens, but the layout is 0 prefix tokens"):
        rotated(torch.ones(7, 4), grid)
