import pytest
import torch
from timm.models.vision_transformer import VisionTransformer

from fvit.attention import Focused
from fvit.models import exchange

from ..suite import randomise, tokens_of


def with_positions(grid=(2, 3), prefix=1):
    torch.manual_seed(0)
    module = Focused(8, 2, position_keys=True, dtype=torch.float64)
    module.set_layout(grid, prefix)
    return module


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"focusing_factor": 0.5}, "focusing_factor=0.5 would blur; take one of at least 1"),
        ({"conv": 4}, "focused: conv=4 has no centre"),
        ({"norm": "row"}, "norm='row' is none of head, token"),
    ],
    ids=str,
)
def test_what_cannot_be_is_refused(options, message):
    with pytest.raises(ValueError, match=message):
        Focused(16, 4, **options)


@pytest.mark.parametrize(
    ("options", "grid", "length"),
    [
        ({}, False, False),
        ({"norm": "token", "scale_channels": True}, False, False),
        ({"conv": 3}, True, False),
        ({"position_keys": True}, False, True),
    ],
    ids=str,
)
def test_an_option_alone_brings_its_need(options, grid, length):
    module = Focused(16, 4, **options)
    assert (module.needs_grid, module.fixed_length) == (grid, length)


def test_positions_begin_at_nothing():
    module, plain = with_positions(), Focused(8, 2, dtype=torch.float64)
    plain.load_state_dict({name: t for name, t in module.state_dict().items() if not name.startswith("positions")})
    x = tokens_of(module)
    assert torch.equal(module(x), plain(x))


def test_without_positions_softmax_checkpoints_load_whole():
    assert set(Focused(8, 2).state_dict()) == {"qkv.weight", "qkv.bias", "proj.weight", "proj.bias"}


def test_one_head_has_the_lengths_of_a_token():
    by_head, by_token = (Focused(8, 1, norm=norm, dtype=torch.float64) for norm in ("head", "token"))
    by_token.load_state_dict(by_head.state_dict())
    x = torch.randn(2, 5, 8, dtype=torch.float64)
    torch.testing.assert_close(by_head(x), by_token(x))


def test_another_number_of_tokens_is_refused():
    with pytest.raises(ValueError, match=r"Positions has weights for each token and got 6 tokens where .* of 7 tokens"):
        with_positions()(torch.randn(1, 6, 8, dtype=torch.float64))


def test_positions_follow_the_size_of_the_images():
    model = VisionTransformer(img_size=(16, 24), patch_size=8, embed_dim=8, depth=2, num_heads=2, num_classes=2)
    exchange(model, {"name": "focused", "position_keys": True})
    for block in model.blocks:
        torch.nn.init.constant_(block.attn.positions.table, 3.0)
    model.set_input_size((32, 32))
    for block in model.blocks:
        assert block.attn.positions.table.shape == (17, 8)
        torch.testing.assert_close(block.attn.positions.table, torch.full((17, 8), 3.0))
    assert model(torch.randn(1, 3, 32, 32)).isfinite().all()


def test_weights_of_another_grid_are_resampled_as_they_load():
    small, large = randomise(with_positions((2, 3))), with_positions((4, 5))
    large.load_state_dict(small.state_dict())
    small.set_layout((4, 5), 1)
    torch.testing.assert_close(large.positions.table, small.positions.table)


def test_a_host_of_changing_size_is_refused_for_positions_alone():
    options = dict(img_size=16, patch_size=8, embed_dim=8, depth=1, num_heads=2, dynamic_img_size=True)
    exchange(VisionTransformer(**options), "focused")
    with pytest.raises(ValueError, match="Focused needs one fixed grid"):
        exchange(VisionTransformer(**options), {"name": "focused", "position_keys": True})
