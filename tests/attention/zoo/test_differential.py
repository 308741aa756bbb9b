import math

import pytest
import torch
from timm.models.vision_transformer import VisionTransformer

from fvit.attention import DifferentialAttention
from fvit.attention.zoo import differential
from fvit.models import exchange

from ..suite import randomise


@pytest.mark.parametrize(("block_index", "expected"), [(0, 0.2), (1, 0.355509), (11, 0.777870)])
def test_lambda_init_follows_the_papers_formula(block_index, expected):
    module = DifferentialAttention(16, 4)
    module.set_layout((2, 3), 1, block_index)
    assert module.lambda_init == pytest.approx(expected, abs=1e-6)


def test_a_given_lambda_init_overrides_the_formula():
    module = DifferentialAttention(16, 4, lambda_init=0.5)
    module.set_layout((2, 3), 1, 11)
    assert module.lambda_init == 0.5


def test_lambda_init_follows_the_block_in_a_model():
    host = VisionTransformer(img_size=32, patch_size=8, embed_dim=24, depth=3, num_heads=3, num_classes=5)
    model = exchange(host, "differential", blocks=[0, 2])
    assert model.blocks[0].attn.lambda_init == pytest.approx(0.2)
    assert model.blocks[2].attn.lambda_init == pytest.approx(0.8 - 0.6 * math.exp(-0.6))


@pytest.mark.parametrize(("heads", "maps", "width"), [(4, 4, 6), (3, 6, 4), (1, 2, 12)])
def test_even_heads_are_paired_and_odd_ones_split(heads, maps, width):
    module = DifferentialAttention(24, heads)
    assert module.maps == maps
    assert module.lambda_q.shape == module.lambda_k.shape == (2, width)
    assert module.norm.normalized_shape == (2 * width,)


def test_equal_maps_cancel_if_lambda_is_one():
    """With λ = 1 and equal maps only the bias of the output projection remains."""
    module = randomise(DifferentialAttention(8, 2, lambda_init=0.5, dtype=torch.float64))
    with torch.no_grad():
        module.qkv.weight[:16] = module.qkv.weight[:4].repeat(4, 1)
        module.qkv.bias[:16] = module.qkv.bias[:4].repeat(4)
        module.lambda_q.copy_(torch.eye(2, 4))
        module.lambda_k.zero_()
        # exp(ln 1.5) − exp(ln 1) + 0.5 = 1
        module.lambda_k[0, 0] = torch.tensor(1.5, dtype=torch.float64).log()
    out = module(torch.randn(1, 5, 8, dtype=torch.float64))
    torch.testing.assert_close(out, module.proj.bias.expand_as(out), rtol=1e-9, atol=1e-9)


@pytest.mark.parametrize("heads", [3, 4])
def test_halves_of_the_values_for_flash_attention_give_the_same(heads, monkeypatch):
    module = randomise(DifferentialAttention(24, heads, attn_drop=0.5, dtype=torch.float64), std=0.3)
    x = torch.randn(2, 5, 24, dtype=torch.float64)
    mask = torch.rand(2, module.maps, 5, 5) > 0.2
    expected = module.eval()(x), module(x, attn_mask=mask), module(x, is_causal=True)
    torch.manual_seed(0)
    dropped = module.train()(x)
    monkeypatch.setattr(differential, "FLASH", ("cpu",))
    found = module.eval()(x), module(x, attn_mask=mask), module(x, is_causal=True)
    for ours, theirs in zip(found, expected, strict=True):
        torch.testing.assert_close(ours, theirs)
    torch.manual_seed(0)
    assert torch.equal(module.train()(x), dropped), "dropout is that of whole maps"


def test_a_mask_per_head_is_a_mask_per_map():
    """Hiding a token from one map changes the output, differently for each map."""
    torch.manual_seed(0)
    module = randomise(DifferentialAttention(16, 4, dtype=torch.float64), std=0.5)
    x = torch.randn(1, 5, 16, dtype=torch.float64)
    outs = []
    for head in range(4):
        mask = torch.ones(1, 4, 1, 5, dtype=torch.bool)
        mask[:, head, :, 2] = False
        outs.append(module(x, attn_mask=mask))
    everywhere = [module(x), *outs]
    for i, one in enumerate(everywhere):
        assert all(not torch.allclose(one, other) for other in everywhere[i + 1 :])
