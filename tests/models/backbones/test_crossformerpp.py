import pytest
import timm
import torch
import torch.nn.functional as F
from torch import nn

from fvit.cost import count
from fvit.models import CrossFormer, build
from fvit.models.backbones.crossformerpp import (
    AmplitudeCooling,
    Block,
    CrossScaleEmbed,
    DynamicPositionBias,
    PatchMerging,
)


def on_meta(**options):
    with torch.device("meta"):
        return timm.create_model("crossformerpp_s", **options)


def small(**options):
    torch.manual_seed(0)
    shape = dict(embed_dim=16, depths=(2, 2, 4, 2), num_heads=(1, 2, 4, 4), num_classes=5)
    return CrossFormer(**{**shape, **options}).eval()


def noise(*shape):
    return torch.randn(*shape, dtype=torch.float64, generator=torch.Generator().manual_seed(0))


@pytest.mark.slow
@pytest.mark.parametrize(
    ("size", "printed", "exact"),
    [("s", 23.3, 23_325_340), ("b", 52.0, 51_994_594), ("l", 92.0, 92_001_904), ("h", 96.0, 95_962_944)],
)
def test_parameters_are_as_published(size, printed, exact):
    """Rounded in the README of the authors' code, exact from the models that it builds."""
    with torch.device("meta"):
        model = timm.create_model(f"crossformerpp_{size}")
    parameters = sum(p.numel() for p in model.parameters())
    assert parameters == exact
    assert round(parameters / 1e6, 1) == printed


@pytest.mark.slow
def test_macs_of_attention_are_two_per_channel_and_pair_of_tokens_including_padding():
    cost = count(on_meta(), 224)
    pairs = [(56 * 56 * 16, 64), (64 * 64 * 16, 64), (28 * 28 * 16, 128), (32 * 32 * 16, 128)]
    pairs += 18 * [(14**4, 256)] + 2 * [(7**4, 512)]
    assert cost.macs - cost.macs_paper == sum(2 * number * width for number, width in pairs)


def test_token_concatenates_patches_of_all_scales_around_one_centre():
    embed = CrossScaleEmbed(3, 16, kernel_sizes=(4, 8, 16, 32), stride=4).double()
    assert [scale.out_channels for scale in embed.scales] == [8, 4, 2, 2]
    image = noise(1, 3, 64, 64)
    tokens = embed(image)
    assert tokens.shape == (1, 16, 16, 16)
    padded = F.pad(image, (14,) * 4)
    for row, column in [(0, 0), (3, 9), (15, 15)]:
        scales = []
        for scale in embed.scales:
            kernel = scale.kernel_size[0]
            top, left = (14 + 4 * place + 2 - kernel // 2 for place in (row, column))
            patch = padded[0, :, top : top + kernel, left : left + kernel]
            scales.append((scale.weight * patch).sum(dim=(1, 2, 3)) + scale.bias)
        torch.testing.assert_close(tokens[0, row, column], torch.cat(scales))


def test_merging_halves_the_grid_and_doubles_the_width():
    assert PatchMerging(16).double()(noise(2, 6, 4, 16)).shape == (2, 3, 2, 32)


def test_bias_depends_on_the_offset_alone():
    torch.manual_seed(0)
    bias = DynamicPositionBias(64, num_heads=2).double()
    table = bias((3, 5))
    assert table.shape == (2, 5, 9)
    for down in range(-2, 3):
        for right in range(-4, 5):
            alone = nn.Sequential.forward(bias, torch.tensor([down, right], dtype=torch.float64))
            torch.testing.assert_close(table[:, 2 + down, 4 + right], alone)
    # The same offset has the same bias in a group of another size.
    torch.testing.assert_close(bias((2, 2)), table[:, 1:4, 3:6])


def reach(block, grid, place):
    """The tokens whose change reaches the token at `place`."""
    x = noise(1, *grid, 16).requires_grad_()
    block(x)[0, *place, 0].backward()
    return {tuple(at) for at in x.grad[0].abs().sum(dim=-1).nonzero().tolist()}


@pytest.mark.parametrize(
    ("grid", "group_size", "step", "place", "rows", "columns"),
    [
        ((8, 8), 2, 1, (3, 6), (2, 3), (6, 7)),  # short distance: its window
        ((8, 8), 2, 2, (3, 6), (1, 3), (4, 6)),  # long: every second token of its region
        ((8, 8), 4, 2, (3, 6), (1, 3, 5, 7), (0, 2, 4, 6)),
        ((7, 8), 2, 2, (6, 1), (4, 6), (1, 3)),
        ((7, 8), 2, 2, (5, 1), (5,), (1, 3)),  # its partner is padding
        ((4, 4), 4, 2, (1, 1), range(4), range(4)),  # at most G rows: one group
        ((3, 5), 4, 2, (1, 1), range(3), range(3)),  # as large as the shorter side
    ],
)
def test_block_attends_to_the_group_of_a_token(grid, group_size, step, place, rows, columns):
    torch.manual_seed(0)
    block = Block(16, 2, group_size, step, mlp_ratio=2.0, proj_drop=0.0, attn_drop=0.0, drop_path=0.0).double()
    assert reach(block, grid, place) == {(row, column) for row in rows for column in columns}


def test_blocks_of_the_published_model():
    model = on_meta()
    blocks = [[block for block in stage.blocks if isinstance(block, Block)] for stage in model.stages]
    assert [[block.group_size for block in stage] for stage in blocks] == [[4] * 2, [4] * 2, [14] * 18, [7] * 2]
    assert [[block.step for block in stage] for stage in blocks] == [[1, 4], [1, 2], [1] * 18, [1] * 2]
    assert [stage[0].attn.num_heads for stage in blocks] == [2, 4, 8, 16]
    kinds = [[type(block) for block in stage.blocks] for stage in model.stages]
    assert kinds[2] == 5 * [Block, Block, Block, AmplitudeCooling] + 3 * [Block]
    assert kinds[0] == kinds[1] == kinds[3] == [Block, Block]


def test_cooling_normalises_amplitudes():
    cooling = AmplitudeCooling(16).double()
    x = noise(2, 4, 4, 16)
    torch.testing.assert_close(cooling(1e4 * x).std(), cooling(x).std(), rtol=0.1, atol=0)


def test_drop_path_grows_from_block_to_block():
    model = on_meta(drop_path_rate=0.23)
    rates = [block.drop_path.drop_prob for stage in model.stages for block in stage.blocks if isinstance(block, Block)]
    torch.testing.assert_close(rates, [0.01 * i for i in range(24)])


@pytest.mark.parametrize("sides", [(32, 32), (96, 96), (64, 160)])
def test_accepted_sizes(sides):
    model = small(num_classes=0, global_pool="")
    assert model(torch.zeros(1, 3, *sides)).shape == (1, sides[0] // 32, sides[1] // 32, 128)


@pytest.mark.parametrize(
    ("sides", "fits"), [((100, 100), "96×96"), ((64, 60), "64×64"), ((8, 8), "32×32"), ((80, 112), "64×128|96×96")]
)
def test_other_sizes_are_rejected_with_the_nearest(sides, fits):
    with pytest.raises(ValueError, match=rf"multiples of 32 px, not {sides[0]}×{sides[1]}; use ({fits})"):
        small()(torch.zeros(1, 3, *sides))


def test_width_that_the_scales_do_not_divide_is_rejected():
    with pytest.raises(ValueError, match="embed_dim=60 does not divide into four scales; use embed_dim=64"):
        build("crossformerpp_s", 224, 10, embed_dim=60)
