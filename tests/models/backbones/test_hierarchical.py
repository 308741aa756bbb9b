import math

import pytest
import torch
import torch.nn.functional as F
from torch import nn

from fvit.models.backbones.hierarchical import CarrierTokens, HierarchicalBlock, LogOffsetBias, PositionEmbedding
from fvit.models.backbones.windows import partition

DIM, HEADS = 8, 2
# grid, window, carriers per window: four windows; two that do not divide the grid; one window
CASES = [((4, 6), (2, 3), (2, 2)), ((5, 3), (3, 3), (2, 1)), ((2, 2), (2, 2), (1, 2))]


def made(module):
    torch.manual_seed(0)
    module = module.double().eval()
    for parameter in module.parameters():
        nn.init.normal_(parameter, std=0.2)
    return module


def block(**options):
    shape = dict(num_heads=HEADS, mlp_ratio=2.0, proj_drop=0.0, attn_drop=0.0, drop_path=0.0)
    return made(HierarchicalBlock(DIM, **shape, **options))


def scale(layer):
    return getattr(layer, "gamma", 1.0)


def noise(*shape, seed=0):
    return torch.randn(*shape, dtype=torch.float64, generator=torch.Generator().manual_seed(seed))


def norm(layer, x):
    return F.layer_norm(x, (DIM,), layer.weight, layer.bias)


def affine(layer, x):
    return x @ layer.weight.T + (0 if layer.bias is None else layer.bias)


def mlp(layer, x):
    return affine(layer.fc2, F.gelu(affine(layer.fc1, x)))


def position_mlp(layer, *coordinates):
    return layer[2].weight @ torch.relu(
        layer[0].weight @ torch.tensor(coordinates, dtype=torch.float64) + layer[0].bias
    )


def bias_between(module, query, key, size):
    """Swin v2's bias of one pair of tokens, [heads]."""
    scaled = [8 * (q - k) / max(1, side - 1) for q, k, side in zip(query, key, size, strict=True)]
    logarithmic = [math.copysign(math.log2(abs(x) + 1) / 3, x) for x in scaled]
    return 16 / (1 + torch.exp(-position_mlp(module.bias.mlp, *logarithmic)))


def place_embedding(module, place, size):
    return position_mlp(
        module.pos_embed.mlp, *((p - s // 2) / max(1, s // 2) for p, s in zip(place, size, strict=True))
    )


def slow_window_block(module, tokens, places, size):
    """A block over tokens [T, C] of one window; `places` has (row, column), None for a carrier, which has neither
    position nor bias."""
    here = [torch.zeros(DIM) if place is None else place_embedding(module, place, size) for place in places]
    x = tokens + torch.stack(here)
    attn, width = module.attn, DIM // HEADS
    q, k, v = affine(attn.qkv, norm(module.norm1, x)).chunk(3, dim=1)
    mixed = torch.zeros_like(x)
    for i, query in enumerate(places):
        logits = torch.zeros(HEADS, len(places), dtype=x.dtype)
        for j, key in enumerate(places):
            if query is not None and key is not None:
                logits[:, j] = bias_between(attn, query, key, size)
            logits[:, j] += (q[i] * k[j]).reshape(HEADS, width).sum(dim=1) / math.sqrt(width)
        for head, weights in enumerate(logits.softmax(dim=1)):
            part = slice(head * width, (head + 1) * width)
            mixed[i, part] = weights @ v[:, part]
    x = x + scale(module.ls1) * affine(attn.proj, mixed)
    return x + scale(module.ls2) * mlp(module.mlp, norm(module.norm2, x))


def slow_hierarchical_block(module, x, carriers, size, share):
    """One image: a map [H, W, C] of tokens and one of carriers, window by window."""
    rows, columns = carriers.shape[:2]
    every = [(i, j) for i in range(rows) for j in range(columns)]
    carriers = slow_window_block(module.across, carriers.reshape(-1, DIM), every, (rows, columns))
    carriers = carriers.reshape(rows, columns, DIM)
    new_x, new_carriers = torch.zeros_like(x), torch.zeros_like(carriers)
    for top in range(rows // share[0]):
        for left in range(columns // share[1]):
            own = [(top * share[0] + i, left * share[1] + j) for i in range(share[0]) for j in range(share[1])]
            inside = [(i, j) for i in range(size[0]) for j in range(size[1])]
            there = {(top * size[0] + i, left * size[1] + j): (i, j) for i, j in inside}
            there = {place: at for place, at in there.items() if place[0] < x.shape[0] and place[1] < x.shape[1]}
            tokens = torch.stack([*(carriers[place] for place in own), *(x[place] for place in there)])
            out = slow_window_block(module.within, tokens, [None] * len(own) + list(there.values()), size)
            for place, token in zip(own, out[: len(own)], strict=True):
                new_carriers[place] = token
            for (place, at), token in zip(there.items(), out[len(own) :], strict=True):
                new_x[place] = token
                if module.add_carriers:
                    i, j = (k * part // side for k, part, side in zip(at, share, size, strict=True))
                    new_x[place] += scale(module.across.ls1) * out[i * share[1] + j]
    return new_x, new_carriers


def inputs(grid, size, share):
    windows = [-(-extent // side) for extent, side in zip(grid, size, strict=True)]
    return noise(2, *grid, DIM), noise(2, *(n * own for n, own in zip(windows, share, strict=True)), DIM, seed=1)


@pytest.mark.parametrize(("grid", "size", "share"), CASES)
@pytest.mark.parametrize("options", [{}, {"init_values": 1.0}, {"init_values": 1.0, "add_carriers": True}])
def test_block_equals_loops_in_float64(grid, size, share, options):
    module, (x, carriers) = block(**options), inputs(grid, size, share)
    tokens, real = partition(x, size)
    out, out_carriers = module(tokens, size, real, carriers, share)
    for b in range(2):
        expected, expected_carriers = slow_hierarchical_block(module, x[b], carriers[b], size, share)
        cut, real = partition(expected[None], size)
        kept = slice(None) if real is None else real
        torch.testing.assert_close(out[b][kept], cut[0][kept])
        torch.testing.assert_close(out_carriers[b], expected_carriers)


def test_windows_communicate_only_through_carriers():
    """A change in one window reaches its own carriers in the first block, and every window in the second."""
    module, (x, carriers) = block(), inputs((4, 6), (2, 3), (2, 2))
    changed = x.clone()
    changed[:, 0, 0, 0] += 1
    states = [(partition(image, (2, 3))[0], carriers) for image in (x, changed)]
    for reached in ([True, False, False, False], [True] * 4):
        states = [module(tokens, (2, 3), None, held, (2, 2)) for tokens, held in states]
        (one, _), (other, _) = states
        assert [not torch.equal(one[:, n], other[:, n]) for n in range(4)] == reached


@pytest.mark.parametrize("size", [(1, 1), (2, 3), (4, 4)])
def test_bias_equals_the_formula_for_each_offset(size):
    module = nn.Module()
    module.bias = made(LogOffsetBias(HEADS))
    table = module.bias(size)
    assert table.shape == (HEADS, 2 * size[0] - 1, 2 * size[1] - 1)
    for down in range(1 - size[0], size[0]):
        for right in range(1 - size[1], size[1]):
            expected = bias_between(module, (down, right), (0, 0), size)
            torch.testing.assert_close(table[:, down + size[0] - 1, right + size[1] - 1], expected)


def test_embedding_of_a_single_token_is_finite():
    assert made(PositionEmbedding(DIM))((1, 1)).isfinite().all()


@pytest.mark.parametrize(
    ("grid", "size", "regions"),
    [
        ((4, 4), (2, 2), [(0, 2), (2, 4)]),
        ((14, 14), (4, 4), [(0, 5), (3, 8), (6, 11), (9, 14)]),  # FasterViT at 224 px: 5 rows, 3 apart
        ((5, 5), (2, 2), [(0, 3), (2, 5)]),
        ((1, 1), (1, 1), [(0, 1)]),
    ],
)
def test_carriers_are_averages_over_regions_that_cover_the_map(grid, size, regions):
    module = made(CarrierTokens(DIM))
    x = noise(2, DIM, *grid)
    out = module(x, size)
    assert out.shape == (2, *size, DIM)
    convolved = F.conv2d(x, module.conv.weight, module.conv.bias, padding=1, groups=DIM)
    for i, (top, below) in enumerate(regions):
        for j, (left, right) in enumerate(regions):
            torch.testing.assert_close(out[:, i, j], convolved[:, :, top:below, left:right].mean(dim=(2, 3)))
