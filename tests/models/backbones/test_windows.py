import math

import pytest
import torch
from torch import nn

from fvit.models.backbones.windows import GroupAttention, merge, offsets, pairs, partition

# grid, size of a group, step: divided; padded below, on the right, on both sides; with groups that are all padding
CUTS = [
    ((4, 6), (2, 3), 1),
    ((8, 8), (2, 2), 2),
    ((5, 6), (2, 3), 1),
    ((4, 7), (2, 3), 1),
    ((5, 7), (3, 3), 2),
    ((7, 9), (2, 2), 3),
]


def grid_of(grid, batch=2, width=4):
    return torch.randn(batch, *grid, width, dtype=torch.float64, generator=torch.Generator().manual_seed(0))


def members(grid, size, step):
    """The tokens of each group as (row, column), None for padding, by loops."""
    blocks = [range(0, extent, side * step) for extent, side in zip(grid, size, strict=True)]
    return [
        [
            (row, column) if row < grid[0] and column < grid[1] else None
            for row in range(top + down, top + size[0] * step, step)
            for column in range(left + right, left + size[1] * step, step)
        ]
        for top in blocks[0]
        for left in blocks[1]
        for down in range(step)
        for right in range(step)
    ]


@pytest.mark.parametrize(("grid", "size", "step"), CUTS)
def test_partition_equals_loops(grid, size, step):
    x = grid_of(grid)
    groups, real = partition(x, size, step)
    expected = members(grid, size, step)
    assert groups.shape == (2, len(expected), size[0] * size[1], 4)
    for n, group in enumerate(expected):
        for t, place in enumerate(group):
            token = torch.zeros(2, 4, dtype=x.dtype) if place is None else x[:, *place]
            torch.testing.assert_close(groups[:, n, t], token, rtol=0, atol=0)
    padded = any(place is None for group in expected for place in group)
    assert (real is not None) == padded
    if padded:
        assert real.tolist() == [[place is not None for place in group] for group in expected]


@pytest.mark.parametrize(("grid", "size", "step"), CUTS)
def test_merge_undoes_partition(grid, size, step):
    x = grid_of(grid)
    torch.testing.assert_close(merge(partition(x, size, step)[0], grid, size, step), x, rtol=0, atol=0)


def test_offsets_run_over_all_pairs():
    table = offsets((2, 3), like=torch.zeros(1))
    assert table.shape == (3, 5, 2)
    assert table[0, 0].tolist() == [-1, -2]
    assert table[2, 4].tolist() == [1, 2]


@pytest.mark.parametrize("size", [(1, 1), (2, 3), (4, 4)])
def test_pairs_share_the_value_of_their_offset(size):
    h, w = size
    table = torch.arange(2 * (2 * h - 1) * (2 * w - 1)).reshape(2, 2 * h - 1, 2 * w - 1)
    laid_out = pairs(table, size)
    for query in range(h * w):
        for key in range(h * w):
            down, right = query // w - key // w, query % w - key % w
            assert torch.equal(laid_out[:, query, key], table[:, h - 1 + down, w - 1 + right])


class Table(nn.Module):
    """A bias read from a table of parameters."""

    def __init__(self, heads, size):
        super().__init__()
        self.table = nn.Parameter(torch.randn(heads, 2 * size[0] - 1, 2 * size[1] - 1))

    def forward(self, size):
        return self.table


def attention(size, heads=2, dim=4, **options):
    torch.manual_seed(0)
    module = GroupAttention(dim, heads, Table(heads, size), **options).double().eval()
    for parameter in module.parameters():
        nn.init.normal_(parameter, std=0.7)
    return module


def slow_attention(module, tokens, places):
    """One group without its padding, [T, C], query by query; `places` has (row, column), None for a carrier."""
    heads, dim = module.num_heads, tokens.shape[1] // module.num_heads
    table = module.bias.table
    centre = [(side - 1) // 2 for side in table.shape[1:]]
    q, k, v = (tokens @ module.qkv.weight.T + module.qkv.bias).chunk(3, dim=1)
    rows = []
    for i, query in enumerate(places):
        row = []
        for head in range(heads):
            part = slice(head * dim, (head + 1) * dim)
            weights = []
            for j, key in enumerate(places):
                logit = sum(q[i, part] * k[j, part]) / math.sqrt(dim)
                if query is not None and key is not None:
                    logit = logit + table[head, centre[0] + query[0] - key[0], centre[1] + query[1] - key[1]]
                weights.append(logit.exp())
            row.append(sum(w * value for w, value in zip(weights, v[:, part], strict=True)) / sum(weights))
        rows.append(torch.cat(row))
    return torch.stack(rows) @ module.proj.weight.T + module.proj.bias


@pytest.mark.parametrize("prefix", [0, 2])
@pytest.mark.parametrize(("grid", "size", "step"), CUTS)
def test_attention_equals_loops_in_float64(grid, size, step, prefix):
    module = attention(size)
    groups, real = partition(grid_of(grid), size, step)
    groups = torch.cat([grid_of((groups.shape[1], prefix)), groups], dim=2)
    out = module(groups, size, real)
    for n, group in enumerate(members(grid, size, step)):
        places = dict.fromkeys(range(prefix))
        places |= {prefix + t: divmod(t, size[1]) for t, place in enumerate(group) if place is not None}
        if kept := list(places):
            expected = slow_attention(module, groups[1, n, kept], list(places.values()))
            torch.testing.assert_close(out[1, n, kept], expected)


def test_padding_has_no_effect_and_gradients_are_finite():
    """Step 3 in 7 rows leaves groups of padding only."""
    module = attention((2, 2))
    groups, real = partition(grid_of((7, 9)), (2, 2), 3)
    assert not real.any(dim=1).all()
    groups.requires_grad_()
    out = module(groups, (2, 2), real)
    merge(out, (7, 9), (2, 2), 3).square().sum().backward()
    assert all(p.grad.isfinite().all() for p in [groups, *module.parameters()])
    assert not groups.grad[:, ~real].any()
    changed = torch.where(real[..., None], groups.detach(), 100.0)
    torch.testing.assert_close(module(changed, (2, 2), real)[:, real], out[:, real])


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float16])
def test_output_is_finite_with_padding_in_every_dtype(dtype):
    module = attention((2, 2)).to(dtype)
    groups, real = partition(grid_of((7, 9)).to(dtype), (2, 2), 3)
    assert module(groups, (2, 2), real).isfinite().all()


def test_attn_drop_acts_only_in_training():
    module = attention((2, 2), attn_drop=0.5)
    groups, _ = partition(grid_of((4, 4)), (2, 2))
    torch.testing.assert_close(module(groups, (2, 2)), module(groups, (2, 2)), rtol=0, atol=0)
    module.train()
    assert not torch.equal(module(groups, (2, 2)), module(groups, (2, 2)))


def test_heads_that_do_not_divide_the_width_are_rejected():
    with pytest.raises(ValueError, match="width of 6 is not divisible by 4 heads"):
        GroupAttention(6, 4, nn.Identity())
