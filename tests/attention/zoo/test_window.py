import pytest
import torch
from timm.models.swin_transformer import SwinTransformerBlock
from timm.models.vision_transformer import VisionTransformer

from fvit.attention import WindowAttention
from fvit.models import exchange

from ..suite import randomise


def with_layout(grid, prefix=0, block_index=0, **options):
    torch.manual_seed(0)
    module = WindowAttention(8, 2, dtype=torch.float64, **options)
    module.set_layout(grid, prefix, block_index)
    return randomise(module, std=0.5)


def seen(module, token):
    """The tokens that the output of one token depends on."""
    x = torch.randn(1, module.num_prefix_tokens + module.grid_size[0] * module.grid_size[1], 8, dtype=torch.float64)
    x.requires_grad_()
    module(x)[:, token].square().sum().backward()
    return x.grad.abs().amax(dim=(0, 2)).nonzero().flatten().tolist()


@pytest.mark.parametrize("block_index", [0, 1, 2, 3])
@pytest.mark.parametrize(("grid", "window"), [((6, 9), 3), ((8, 4), 4), ((4, 4), 2)])
def test_equals_timms_swin(grid, window, block_index):
    ours = with_layout(grid, 0, block_index, window=window, position_bias=True)
    shift = window // 2 if block_index % 2 else 0
    block = SwinTransformerBlock(8, grid, num_heads=2, window_size=window, shift_size=shift)
    block = block.double().eval()
    with torch.no_grad():
        for theirs, mine in ((block.attn.qkv, ours.qkv), (block.attn.proj, ours.proj)):
            theirs.load_state_dict(mine.state_dict())
        # Theirs has the offsets on the first axis, for windows that shrink with the grid.
        rows, columns = block.window_size
        inner = ours.position_bias[:, window - rows : window + rows - 1, window - columns : window + columns - 1]
        block.attn.relative_position_bias_table.copy_(inner.flatten(1).T)
    x = torch.randn(2, grid[0] * grid[1], 8, dtype=torch.float64)
    expected = block._attn(x.unflatten(1, grid)).flatten(1, 2)
    torch.testing.assert_close(ours(x), expected)


def test_windows_shift_in_every_second_block():
    assert seen(with_layout((1, 9), window=4, block_index=0), 5) == [4, 5, 6, 7]
    assert seen(with_layout((1, 9), window=4, block_index=1), 5) == [2, 3, 4, 5]
    assert seen(with_layout((1, 9), window=4, block_index=2), 8) == [8]
    assert seen(with_layout((1, 9), window=4, block_index=3), 8) == [6, 7, 8]
    assert seen(with_layout((1, 9), window=4, block_index=3), 0) == [0, 1]


def test_a_window_larger_than_the_grid_is_the_grid_and_is_not_shifted():
    for block_index in (0, 1):
        module = with_layout((2, 3), 0, block_index, window=7)
        assert seen(module, 0) == list(range(6))
        assert seen(module, 5) == list(range(6))


def test_a_window_as_large_as_the_grid_is_softmax_attention():
    module = with_layout((2, 3), window=7)
    x = torch.randn(2, 6, 8, dtype=torch.float64)
    q, k, v = (t.unflatten(-1, (2, 4)).transpose(1, 2) for t in module.qkv(x).chunk(3, dim=-1))
    out = ((q @ k.mT / 2).softmax(dim=-1) @ v).transpose(1, 2).flatten(2)
    torch.testing.assert_close(module(x), module.proj(out))


def test_prefix_tokens_see_all_tokens_and_patches_see_no_prefix_token():
    module = with_layout((2, 4), prefix=2, window=2)
    assert seen(module, 0) == list(range(10))
    assert seen(module, 2) == [2, 3, 6, 7]


def test_a_fully_hidden_window_leaves_the_others_unchanged():
    module = with_layout((2, 4), prefix=1, window=2)
    x = torch.randn(1, 9, 8, dtype=torch.float64)
    keep = torch.tensor([1, 1, 1, 0, 0, 1, 1, 0, 0], dtype=torch.bool)
    leaf = x.clone().requires_grad_()
    out = module(leaf, attn_mask=keep[None, None, None])
    out.sum().backward()
    assert out.isfinite().all()
    assert leaf.grad.isfinite().all()
    torch.testing.assert_close(out[:, [1, 2, 5, 6]], module(x)[:, [1, 2, 5, 6]])


def test_the_shift_follows_the_block_in_a_model():
    host = VisionTransformer(img_size=32, patch_size=8, embed_dim=24, depth=3, num_heads=3, num_classes=5)
    model = exchange(host, {"name": "window", "window": 2}, blocks=[0, 1])
    assert [model.blocks[i].attn.block_index for i in (0, 1)] == [0, 1]
    x = torch.randn(1, 17, 24)
    model.blocks[1].attn.load_state_dict(model.blocks[0].attn.state_dict())
    assert not torch.allclose(model.blocks[0].attn(x)[:, 1:], model.blocks[1].attn(x)[:, 1:])
    torch.testing.assert_close(model.blocks[0].attn(x)[:, :1], model.blocks[1].attn(x)[:, :1])
