import pytest
import timm.layers
import torch
from torch import nn

from fvit.attention import SoftmaxAttention
from fvit.attention.norms import LayerNorm

from ..suite import randomise

MASKS = {
    "none": {},
    "bool keys": {"attn_mask": torch.tensor([[1, 1, 1, 0, 1, 0], [1, 0, 1, 1, 1, 1]], dtype=torch.bool)[:, None, None]},
    "bool pairs": {"attn_mask": torch.eye(6, dtype=torch.bool).roll(1, 0).logical_or(torch.eye(6, dtype=torch.bool))},
    "float pairs": {"attn_mask": torch.linspace(-3, 3, 36).view(1, 1, 6, 6)},
    "float per head": {"attn_mask": torch.linspace(-3, 3, 2 * 4 * 36).view(2, 4, 6, 6)},
    "causal": {"is_causal": True},
}


@pytest.mark.parametrize("options", [{}, {"qkv_bias": False}, {"qk_norm": True, "norm_layer": nn.LayerNorm}], ids=str)
@pytest.mark.parametrize("fused", [True, False])
def test_equals_timm(options, fused):
    torch.manual_seed(0)
    theirs = timm.layers.Attention(16, num_heads=4, **{"qkv_bias": True, **options})
    theirs.fused_attn = fused
    randomise(theirs, std=0.3)
    ours = SoftmaxAttention(16, num_heads=4, **options)
    ours.load_state_dict(theirs.state_dict(), strict=True)
    x = torch.randn(2, 6, 16)
    for mask in MASKS.values():
        torch.testing.assert_close(ours(x, **mask), theirs(x, **mask), rtol=1e-6, atol=1e-6)


@pytest.mark.parametrize("norm_layer", [nn.RMSNorm, None])
def test_qk_norm_uses_the_hosts_norm_layer(norm_layer):
    module = SoftmaxAttention(16, 4, qk_norm=True, norm_layer=norm_layer)
    expected = norm_layer or LayerNorm
    assert type(module.q_norm) is type(module.k_norm) is expected
    assert module.q_norm.normalized_shape == (4,)


@pytest.mark.parametrize("options", [{}, {"rotary": True}, {"talking_heads": True}, {"qk_norm": True}], ids=str)
def test_grouped_queries_are_heads_with_equal_keys_and_values(options):
    torch.manual_seed(0)
    grouped = randomise(SoftmaxAttention(16, 4, kv_heads=2, **options), std=0.5)
    full = SoftmaxAttention(16, 4, **options)
    state = grouped.state_dict()
    for name in ("qkv.weight", "qkv.bias"):
        q, k, v = state[name].split((16, 8, 8))
        k, v = (part.unflatten(0, (2, 4)).repeat_interleave(2, dim=0).flatten(0, 1) for part in (k, v))
        state[name] = torch.cat([q, k, v])
    full.load_state_dict(state)
    x = torch.randn(2, 7, 16)
    for module in (grouped, full):
        module.set_layout((2, 3), 1)
    torch.testing.assert_close(grouped(x), full(x))
    torch.testing.assert_close(grouped.weights(x), full.weights(x))
    assert sum(p.numel() for p in full.parameters()) - sum(p.numel() for p in grouped.parameters()) == 2 * 8 * 17


def test_heads_that_talk_only_to_themselves_are_plain_ones():
    torch.manual_seed(0)
    talking, plain = (SoftmaxAttention(16, 4, talking_heads=talks) for talks in (True, False))
    with torch.no_grad():
        for layer in (talking.mix_logits, talking.mix_weights):
            layer.weight.copy_(torch.eye(4))
    plain.load_state_dict({name: t for name, t in talking.state_dict().items() if not name.startswith("mix_")})
    x = torch.randn(2, 6, 16)
    for mask in MASKS.values():
        torch.testing.assert_close(talking(x, **mask), plain(x, **mask))
        torch.testing.assert_close(talking.weights(x, **mask), plain.weights(x, **mask))
