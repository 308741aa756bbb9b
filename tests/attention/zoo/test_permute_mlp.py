import pytest
import timm
import torch

from fvit.attention import PermuteMLP
from fvit.cost import count
from fvit.models import exchange

from ..suite import randomise


def with_layout(grid, **options):
    torch.manual_seed(0)
    module = PermuteMLP(24, 3, dtype=torch.float64, **options)
    module.set_layout(grid, 0)
    return module


@pytest.mark.parametrize(("dim", "segments"), [(384, 16), (192, 16), (24, 8), (30, 2)])
def test_default_number_of_segments(dim, segments):
    assert PermuteMLP(dim, 2).segments == segments


def test_with_as_many_segments_as_rows_all_layers_have_the_width_of_the_tokens():
    module = with_layout((6, 6), segments=6)
    assert module.mlp_h.weight.shape == module.mlp_w.weight.shape == module.mlp_c.weight.shape


def test_layers_report_their_size_for_counting_macs():
    module = with_layout((2, 5), segments=8)
    assert (module.mlp_h.in_features, module.mlp_h.out_features) == (6, 6)
    assert (module.mlp_w.in_features, module.mlp_w.out_features) == (15, 15)
    host = timm.create_model(
        "vit_tiny_patch16_224", img_size=32, patch_size=8, embed_dim=24, depth=1, num_heads=3, global_pool="avg"
    )
    plain = count(exchange(host, "identity"), 32).macs_paper
    # 16 patches: two layers of 12 × 12 for each of 4 lines and 8 segments, two of 24 × 24, and 24 × 6 and 6 × 72 once.
    added = 2 * 4 * 8 * 12**2 + 2 * 16 * 24**2 + 24 * 6 + 6 * 72
    assert count(exchange(host, "permute_mlp"), 32).macs_paper - plain == added


@pytest.mark.parametrize("new", [(4, 3), (2, 6), (5, 5)])
def test_another_grid_preserves_the_output_of_uniform_images(new):
    """If the weights are equal at all positions, they average rows and columns, for any grid."""
    module = randomise(with_layout((2, 3), segments=6))
    with torch.no_grad():
        for linear in (module.mlp_h, module.mlp_w):
            lines = linear.in_features // 4
            linear.weight.copy_(torch.randn(4, 4, dtype=torch.float64).repeat(lines, lines) / lines)
            linear.bias.copy_(torch.randn(4, dtype=torch.float64).repeat(lines))
    token = torch.randn(1, 1, 24, dtype=torch.float64)
    before = module(token.expand(-1, 6, -1))[:, :1]
    module.set_layout(new, 0)
    assert module.mlp_h.bias.shape == (4 * new[0],)
    after = module(token.expand(-1, new[0] * new[1], -1))
    torch.testing.assert_close(after, before.expand_as(after))


def test_the_first_layout_initialises_what_it_sizes():
    module = with_layout((14, 14))
    for linear in (module.mlp_h, module.mlp_w):
        assert linear.weight.detach().std() == pytest.approx(0.02, rel=0.05)
        assert not linear.bias.any()
