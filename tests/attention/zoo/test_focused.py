import pytest
import torch
from timm.models.vision_transformer import VisionTransformer

from fvit.attention import FocusedLinearAttention
from fvit.models import exchange

from ..suite import tokens_of


def with_positions(grid=(2, 3), prefix=1):
    torch.manual_seed(0)
    module = FocusedLinearAttention(8, 2, position_keys=True, dtype=torch.float64)
    module.set_layout(grid, prefix)
    return module


def test_positions_start_at_zero():
    module, plain = with_positions(), FocusedLinearAttention(8, 2, dtype=torch.float64)
    plain.load_state_dict({name: t for name, t in module.state_dict().items() if not name.startswith("positions")})
    x = tokens_of(module)
    assert torch.equal(module(x), plain(x))


def test_without_positions_it_has_the_parameters_of_softmax_attention():
    assert set(FocusedLinearAttention(8, 2).state_dict()) == {"qkv.weight", "qkv.bias", "proj.weight", "proj.bias"}


def test_with_one_head_both_norms_are_equal():
    by_head, by_token = (FocusedLinearAttention(8, 1, norm=norm, dtype=torch.float64) for norm in ("head", "token"))
    by_token.load_state_dict(by_head.state_dict())
    x = torch.randn(2, 5, 8, dtype=torch.float64)
    torch.testing.assert_close(by_head(x), by_token(x))


def test_another_number_of_tokens_is_refused_by_the_positions():
    with pytest.raises(ValueError, match=r"PositionEmbedding has weights .* got 6 tokens, but the layout has 7"):
        with_positions()(torch.randn(1, 6, 8, dtype=torch.float64))


def test_positions_follow_the_image_size():
    model = VisionTransformer(img_size=(16, 24), patch_size=8, embed_dim=8, depth=2, num_heads=2, num_classes=2)
    exchange(model, {"name": "focused", "position_keys": True})
    for block in model.blocks:
        torch.nn.init.constant_(block.attn.positions.table, 3.0)
    model.set_input_size((32, 32))
    for block in model.blocks:
        assert block.attn.positions.table.shape == (17, 8)
        torch.testing.assert_close(block.attn.positions.table, torch.full((17, 8), 3.0))
    assert model(torch.randn(1, 3, 32, 32)).isfinite().all()


def test_a_host_with_dynamic_image_size_is_refused_only_with_positions():
    options = dict(img_size=16, patch_size=8, embed_dim=8, depth=1, num_heads=2, dynamic_img_size=True)
    exchange(VisionTransformer(**options), "focused")
    with pytest.raises(ValueError, match="FocusedLinearAttention needs one fixed grid"):
        exchange(VisionTransformer(**options), {"name": "focused", "position_keys": True})
