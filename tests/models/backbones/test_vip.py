import pytest
import timm
import torch
from torch import nn
from torch.nn import functional as F

from fvit.models.backbones.vip import PermuteMlp, VisionPermutator

HEIGHT, WIDTH, DIM, SEGMENT = 3, 5, 12, 4
SMALL = dict(embed_dims=(16, 32), depths=(1, 1), segment_dims=(4, 8), num_classes=5)


def layer():
    torch.manual_seed(0)
    mlp = PermuteMlp(DIM, (HEIGHT, WIDTH), SEGMENT).double()
    for parameter in mlp.parameters():
        torch.nn.init.normal_(parameter, std=0.3)
    return mlp


def by_hand(mlp, x):
    """The formula, value by value."""
    by_rows, by_columns = torch.zeros_like(x), torch.zeros_like(x)
    for image in range(len(x)):
        for segment in range(DIM // SEGMENT):
            channels = slice(segment * SEGMENT, (segment + 1) * SEGMENT)
            for column in range(WIDTH):
                numbers = torch.cat([x[image, row, column, channels] for row in range(HEIGHT)])
                for row, part in enumerate((mlp.mix_h.weight @ numbers).split(SEGMENT)):
                    by_rows[image, row, column, channels] = part
            for row in range(HEIGHT):
                numbers = torch.cat([x[image, row, column, channels] for column in range(WIDTH)])
                for column, part in enumerate((mlp.mix_w.weight @ numbers).split(SEGMENT)):
                    by_columns[image, row, column, channels] = part
    by_channels = x @ mlp.mix_c.weight.T
    pooled = (by_rows + by_columns + by_channels).mean(dim=(1, 2))
    logits = mlp.reweight.fc2(F.gelu(mlp.reweight.fc1(pooled)))
    out = torch.zeros_like(x)
    for image in range(len(x)):
        for channel in range(DIM):
            share = logits[image, 3 * channel : 3 * channel + 3].softmax(dim=0)
            for weight, part in zip(share, (by_rows, by_columns, by_channels), strict=True):
                out[image, :, :, channel] += weight * part[image, :, :, channel]
    return out @ mlp.proj.weight.T + mlp.proj.bias


def test_permute_mlp_against_its_formula():
    mlp, x = layer(), torch.randn(2, HEIGHT, WIDTH, DIM, dtype=torch.float64)
    torch.testing.assert_close(mlp(x), by_hand(mlp, x), rtol=1e-12, atol=1e-12)


def test_a_position_mixes_with_its_row_and_column_only():
    """With constant weights of the sum, which otherwise depend on all positions."""
    mlp = layer()
    mlp.reweight.fc2.weight.data.zero_()
    x = torch.zeros(1, HEIGHT, WIDTH, DIM, dtype=torch.float64)
    before = mlp(x)
    x[0, 1, 3] = 1
    changed = (mlp(x) - before).abs().amax(dim=-1)[0] > 1e-9
    expected = torch.zeros(HEIGHT, WIDTH, dtype=torch.bool)
    expected[1, :] = expected[:, 3] = True
    assert torch.equal(changed, expected)


@pytest.mark.parametrize(
    ("name", "exact"),
    [
        ("vip_small14", 29_892_904),
        ("vip_small7", 25_114_984),
        ("vip_medium7", 55_272_488),
        ("vip_large7", 87_784_936),
    ],
)
def test_parameters_are_those_of_the_authors_code(name, exact):
    with torch.device("meta"):
        model = timm.create_model(name)
    assert sum(p.numel() for p in model.parameters()) == exact


@pytest.mark.slow
@pytest.mark.parametrize(
    ("name", "stages"),
    [
        ("vip_small14", [(16, 384, 18)]),
        ("vip_small7", [(32, 192, 4), (16, 384, 14)]),
        ("vip_medium7", [(32, 256, 7), (16, 512, 17)]),
        ("vip_large7", [(32, 256, 8), (16, 512, 28)]),
    ],
)
def test_there_are_as_many_segments_as_rows_at_the_published_size(name, stages):
    with torch.device("meta"):
        model = timm.create_model(name)
    for stage, (side, dim, depth) in zip(model.stages, stages, strict=True):
        assert len(stage.blocks) == depth
        for block in stage.blocks:
            assert block.permute.mix_h.in_features == block.permute.mix_w.in_features == dim
            assert dim // block.permute.segment_dim == side


@pytest.mark.parametrize("size", [14, 42, (28, 56)])
def test_builds_for_other_sizes(size):
    model = VisionPermutator(img_size=size, **SMALL)
    height, width = (size, size) if isinstance(size, int) else size
    assert model(torch.zeros(2, 3, height, width)).shape == (2, 5)
    assert model.stages[0].blocks[0].permute.mix_h.in_features == height // 7 * 4
    assert model.stages[1].blocks[0].permute.mix_w.in_features == width // 14 * 8


@pytest.mark.parametrize(
    ("size", "side", "remedy"), [(32, 32, 28), (21, 21, 28), (3, 3, 14), ((28, 30), 30, 28), (225, 225, 224)]
)
def test_size_that_patches_do_not_divide_is_rejected_with_the_nearest(size, side, remedy):
    with pytest.raises(ValueError, match=f"of 14 px, which do not divide images of {side} px; use img_size={remedy}$"):
        VisionPermutator(img_size=size, **SMALL)


def test_images_of_another_size_are_rejected():
    with pytest.raises(AssertionError, match=r"42.*28"):
        VisionPermutator(img_size=28, **SMALL)(torch.zeros(1, 3, 42, 42))


def test_weights_for_another_size_are_rejected():
    state = VisionPermutator(img_size=28, **SMALL).state_dict()
    with pytest.raises(RuntimeError, match=r"size mismatch for stages\.0\.blocks\.0\.permute\.mix_h\.weight"):
        VisionPermutator(img_size=42, **SMALL).load_state_dict(state)


def test_segment_that_does_not_divide_the_width_is_rejected():
    with pytest.raises(ValueError, match="segments of 5 channels do not divide a width of 16"):
        VisionPermutator(img_size=28, **{**SMALL, "segment_dims": (5, 8)})


def test_stochastic_depth_grows_linearly_over_both_stages():
    model = VisionPermutator(img_size=28, drop_path_rate=0.3, **{**SMALL, "depths": (2, 3)})
    rates = [block.drop_path.drop_prob for stage in model.stages for block in stage.blocks]
    torch.testing.assert_close(torch.tensor(rates), torch.linspace(0, 0.3, 5))


def test_linear_layers_start_small_and_unbiased():
    torch.manual_seed(0)
    linear = [m for m in VisionPermutator(img_size=28, **SMALL).modules() if isinstance(m, nn.Linear)]
    assert all(m.weight.abs().max() < 0.1 and (m.bias is None or not m.bias.any()) for m in linear)
