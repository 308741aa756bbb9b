import pytest
import timm
import torch
from torch import nn

from fvit.models import FasterViT
from fvit.models.backbones.fastervit import AttentionStage
from fvit.models.backbones.hierarchical import HierarchicalBlock, WindowBlock


def on_meta(**options):
    with torch.device("meta"):
        return timm.create_model("fastervit_0", **options)


def small(**options):
    torch.manual_seed(0)
    shape = dict(stem_dim=8, embed_dim=8, depths=(1, 1, 2, 1), num_heads=(2, 4), num_classes=5)
    return FasterViT(**{**shape, **options}).eval()


@pytest.mark.parametrize(
    ("size", "exact"),
    [
        ("0", 31_404_840),
        ("1", 53_366_696),
        ("2", 75_923_816),
        ("3", 159_547_944),
        *(
            pytest.param(*case, marks=pytest.mark.slow)
            for case in (("4", 365_555_712), ("5", 957_520_552), ("6", 1_360_328_872))
        ),
        ("4_21k_768", 271_944_224),
    ],
)
def test_parameters_are_those_of_the_authors_code(size, exact):
    with torch.device("meta"):
        model = timm.create_model(f"fastervit_{size}")
    assert sum(p.numel() for p in model.parameters()) == exact


@pytest.mark.parametrize("size", [224, 384, 512, 768])
def test_pretraining_on_21k_classes_goes_with_attention_over_the_whole_map(size):
    with torch.device("meta"):
        model = timm.create_model(f"fastervit_4_21k_{size}", depths=(1, 1, 1, 1))
    for stage, reduction in zip(model.stages[2:], (16, 32), strict=True):
        assert stage.window_size == size // reduction
        assert stage.carriers is None


def test_carriers_and_windows_are_options():
    """As the authors' any-resolution models have them."""
    model = small(carriers=3, window_sizes=(6, 3)).eval()
    seen = []
    model.stages[2].blocks[-1].register_forward_hook(lambda block, inputs, out: seen.append((inputs, out)))
    assert model(torch.randn(1, 3, 192, 288)).shape == (1, 5)
    [((tokens, size, real, _, share), (_, carriers))] = seen
    assert (tuple(tokens.shape[1:3]), size, real, share) == ((6, 36), (6, 6), None, (3, 3))
    assert tuple(carriers.shape[1:3]) == (6, 9)


def test_scaled_branches_start_small_and_the_last_block_adds_carriers():
    model = small(init_values=1e-5, depths=(1, 1, 3, 1))
    blocks = model.stages[2].blocks
    assert [block.add_carriers for block in blocks] == [False, False, True]
    scales = [p for name, p in model.named_parameters() if name.endswith("gamma")]
    assert len(scales) == 3 * 4 + 2
    assert all((scale == 1e-5).all() for scale in scales)
    assert not any(block.add_carriers for block in small().stages[2].blocks)


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
    shape = dict(num_heads=2, mlp_ratio=1.0, proj_drop=0.0, attn_drop=0.0, window_size=7)
    stage = AttentionStage(8, nn.Identity(), [0.0], carriers=2 * carriers, **shape)
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
