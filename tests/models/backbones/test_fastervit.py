import pytest
import timm
import torch
from torch import nn

from fvit.cost import count
from fvit.models import FasterViT
from fvit.models.backbones.fastervit import AttentionStage
from fvit.models.backbones.hierarchical import HierarchicalBlock, LogOffsetBias, PositionEmbedding, WindowBlock


def on_meta(**options):
    with torch.device("meta"):
        return timm.create_model("fastervit_0", **options)


def small(**options):
    torch.manual_seed(0)
    shape = dict(stem_dim=8, embed_dim=8, depths=(1, 1, 2, 1), num_heads=(2, 4), num_classes=5)
    return FasterViT(**{**shape, **options}).eval()


@pytest.mark.parametrize(
    ("printed", "exact", "options"),
    [
        (31.4, 31_404_840, {}),
        (53.4, 53_366_696, dict(stem_dim=32, embed_dim=80, depths=(1, 3, 8, 5))),  # FasterViT-1
    ],
)
def test_parameters_are_as_published(printed, exact, options):
    """Rounded in the README of the authors' code, exact from the models that it builds."""
    parameters = sum(p.numel() for p in on_meta(**options).parameters())
    assert parameters == exact
    assert round(parameters / 1e6, 1) == printed


def test_macs_without_position_mlps_are_as_published():
    """The MLPs run once for all images."""
    model, of_positions = on_meta().eval(), []
    for module in model.modules():
        if isinstance(module, LogOffsetBias | PositionEmbedding):
            for layer in (module.mlp[0], module.mlp[2]):
                layer.register_forward_hook(lambda layer, _, out: of_positions.append(out.numel() * layer.in_features))
    model(torch.empty(1, 3, 224, 224, device="meta"))
    published = (count(on_meta(), 224).macs_paper - sum(of_positions)) / 1e9
    assert round(published, 2) == 3.31
    assert round(published, 1) == 3.3


def test_stages_of_the_published_model():
    model = on_meta(drop_path_rate=0.15)
    assert [len(stage.blocks) for stage in model.stages] == [2, 3, 6, 5]
    assert {type(block) for block in model.stages[2].blocks} == {HierarchicalBlock}
    assert {type(block) for block in model.stages[3].blocks} == {WindowBlock}
    heads = [model.stages[2].blocks[0].across, model.stages[2].blocks[0].within, model.stages[3].blocks[0]]
    assert [block.attn.num_heads for block in heads] == [8, 8, 16]
    rates = [block.drop_path.drop_prob for stage in model.stages[:2] for block in stage.blocks]
    rates += [block.within.drop_path.drop_prob for block in model.stages[2].blocks]
    rates += [block.drop_path.drop_prob for block in model.stages[3].blocks]
    torch.testing.assert_close(rates, [0.01 * i for i in range(16)])


class Spy(nn.Module):
    """A block that records its arguments."""

    def __init__(self):
        super().__init__()
        self.seen = []

    def forward(self, x, size, real=None, carriers=None, share=None):
        self.seen.append((x.shape[1], size, real is None, None if carriers is None else tuple(carriers.shape[1:3])))
        return x if carriers is None else (x, carriers)


@pytest.mark.parametrize(
    ("grid", "seen"),
    [
        ((14, 14), (4, (7, 7), True, (4, 4))),  # 224 px
        ((7, 7), (1, (7, 7), True, (2, 2))),
        ((2, 2), (1, (2, 2), True, (2, 2))),  # 32 px
        ((1, 1), (1, (1, 1), True, (1, 1))),
        ((16, 16), (9, (6, 6), False, (6, 6))),  # 256 px: three windows of 6, not of 7
        ((24, 14), (8, (6, 7), True, (8, 4))),
    ],
)
@pytest.mark.parametrize("carriers", [True, False])
def test_windows_are_the_fewest_of_at_most_7_and_equal(grid, seen, carriers):
    shape = dict(num_heads=2, mlp_ratio=1.0, proj_drop=0.0, attn_drop=0.0)
    stage = AttentionStage(8, nn.Identity(), [0.0], carriers=carriers, **shape)
    stage.blocks = nn.ModuleList([Spy()])
    x = torch.randn(2, 8, *grid)
    torch.testing.assert_close(stage(x), x, rtol=0, atol=0)
    assert stage.blocks[0].seen == [seen if carriers else (*seen[:3], None)]


@pytest.mark.parametrize("sides", [(8, 8), (32, 32), (100, 100), (150, 64), (256, 256)])
def test_images_may_have_any_size(sides):
    model = small(num_classes=0, global_pool="")
    assert model(torch.randn(1, 3, *sides)).shape == (1, 64, -(-sides[0] // 32), -(-sides[1] // 32))


def test_weights_fit_other_image_sizes():
    model = small()
    trained = {name: tuple(p.shape) for name, p in model.named_parameters()}
    assert model(torch.randn(1, 3, 224, 224)).isfinite().all()
    assert model(torch.randn(1, 3, 32, 32)).isfinite().all()
    assert {name: tuple(p.shape) for name, p in model.named_parameters()} == trained


def test_every_pixel_matters_if_windows_are_padded():
    """At 128 px the map of stage 3 is 8×8, two windows per side; at 144 px, 9 rows in two windows of 5."""
    model = small().double().train()
    x = torch.randn(2, 3, 144, 144, dtype=torch.float64, requires_grad=True)
    model(x).square().sum().backward()
    assert x.grad.isfinite().all()
    assert (x.grad != 0).all()
