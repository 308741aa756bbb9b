"""Attention maps of whole models: the right tokens at the right place, for every kind of host and attention."""

import pytest
import torch
from torch import nn

from fvit.attention import IdentityMixer
from fvit.models import build, exchange
from fvit.models.maps import attention_maps
from tests.models.small import (
    KINDS,
    REPRESENTATIVES,
    WIDE,
    attending_to_brightness,
    bright,
    head_for,
    host_of,
    images,
    resampling,
    small_host,
)


@pytest.mark.parametrize("options", [{}, dict(reg_tokens=2), dict(class_token=False, global_pool="avg")], ids=str)
@pytest.mark.parametrize("attention", ["additive", "softmax", "native"])
@pytest.mark.parametrize("place", [(0, 0), (0, 3), (1, 4)])
def test_maps_show_the_bright_patch_at_its_place(attention, place, options):
    model = attending_to_brightness(attention, **options)
    found = attention_maps(model, bright(*place))
    assert [(one.block, one.name) for one in found] == (
        [(0, "query"), (0, "key")] if attention == "additive" else [(0, "map")]
    )
    weights = found[0].weights
    assert weights.shape == (1, 3, 2, 5)
    assert divmod(int(weights[0, 0].argmax()), 5) == place
    assert weights[0, 0][place] > 2 * weights[0, 0].median()
    assert weights.sum(dim=(2, 3)).max() <= 1 + 1e-6


@pytest.mark.parametrize("options", [{}, dict(class_token=False, global_pool="avg")], ids=str)
def test_jacobian_is_where_the_mechanism_reads(options):
    class ReadsOne(IdentityMixer):
        reaches_prefix = True

        def weights(self, x, attn_mask=None, is_causal=False):
            return {}

        def forward(self, x, attn_mask=None, is_causal=False):
            return x[:, self.num_prefix_tokens + 7, None].expand_as(x)

    model = exchange(small_host(**WIDE, depth=2, **options), ReadsOne)
    for one in attention_maps(model, torch.randn(2, 3, 16, 40)):
        assert one.name == "jacobian"
        assert one.weights.shape == (2, 1, 2, 5)
        expected = torch.zeros(2, 5)
        expected[1, 2] = 24**0.5  # the Jacobian is the identity
        torch.testing.assert_close(one.weights[:, 0], expected.expand(2, 2, 5))


@resampling
@pytest.mark.parametrize("kind", [kind for kind in KINDS if kind != "swin"])
def test_timms_own_attention_shows_its_map(kind):
    model = host_of(kind)
    with torch.no_grad():
        before = model(images())
        found = attention_maps(model, images())
        assert torch.equal(before, model(images())), "hooks were removed"
    assert [one.name for one in found] == ["map"] * len(model.blocks)
    for one in found:
        assert one.weights.shape == (2, 3, 4, 4)
        if "cait" not in kind:  # it mixes the maps of heads
            assert one.weights.min() >= 0
            assert one.weights.sum(dim=(2, 3)).max() <= 1 + 1e-5


@pytest.mark.parametrize("kind", ["vit", "beit", "eva", "dinov3", "relpos"])
def test_softmax_shows_the_same_maps_as_timms_own_attention(kind):
    own, theirs = (host_of(kind, std=0) for _ in range(2))
    exchange(own, "softmax", keep=["qkv", "proj"])
    for one, other in zip(attention_maps(own, images()), attention_maps(theirs, images()), strict=True):
        torch.testing.assert_close(one.weights, other.weights, rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("attention", [*REPRESENTATIVES, "differential", "random", "synthesizer"])
def test_mechanisms_with_and_without_weights_have_maps(attention):
    model = exchange(small_host(num_heads=2, depth=1, **head_for(attention)), attention).eval()
    found = attention_maps(model, images())
    assert found
    for one in found:
        assert one.weights.shape[0] == 2
        assert one.weights.shape[2:] == (4, 4)
        assert one.weights.isfinite().all()


def test_models_without_exchangeable_attention_are_rejected():
    with pytest.raises(ValueError, match="there are no attention maps: ResNet has no exchangeable attention"):
        attention_maps(build("resnet10t", 32, 5), images())


@resampling
@pytest.mark.parametrize("attention", [None, "softmax", "identity"])
def test_windows_are_joined_at_their_places(attention):
    """Only then do the weights of each window sum to 1; every second block shifts its windows by 2."""
    model = host_of("swin", std=0)  # 16×16 patches, then 8×8, in windows of 4×4
    if attention:
        exchange(model, attention)
    found = attention_maps(model, images())
    assert [one.weights.shape for one in found] == [
        (2, 1 if attention == "identity" else heads, side, side) for heads, side in ((2, 16), (2, 16), (4, 8), (4, 8))
    ]
    for one in found:
        rolled = one.weights.roll((-2, -2), dims=(2, 3)) if one.block % 2 else one.weights
        sums = rolled.unfold(2, 4, 4).unfold(3, 4, 4).sum(dim=(4, 5))
        torch.testing.assert_close(sums, torch.ones_like(sums))


def test_mechanism_without_weights_in_shifted_windows_is_rejected():
    class Silent(IdentityMixer):
        def weights(self, x, attn_mask=None, is_causal=False):
            return {}

    with pytest.raises(ValueError, match=r"Silent takes the masks of shifted windows .* override Mechanism\.weights"):
        attention_maps(exchange(host_of("swin", std=0), Silent), images())


def test_maps_of_windows_show_the_bright_patch():
    model = host_of("swin", std=0)
    block = model.layers[0].blocks[1]
    with torch.no_grad():
        for parameter in block.attn.parameters():
            parameter.zero_()
        block.attn.qkv.bias[0] = 30.0
        block.attn.qkv.weight[12, 0] = 1.0
        model.patch_embed.proj.weight.zero_()
        model.patch_embed.proj.bias.zero_()
        model.patch_embed.proj.weight[0] = 1.0
    model.patch_embed.norm = block.norm1 = nn.Identity()
    model.layers[0].blocks[0] = _Passing(model.layers[0].blocks[0])
    image = torch.zeros(1, 3, 32, 32)
    image[..., 2 * 13 : 2 * 13 + 2, 2 * 6 : 2 * 6 + 2] = 1
    weights = next(one for one in attention_maps(model, image) if one.block == 1).weights
    assert divmod(int(weights[0, 0].argmax()), 16) == (13, 6)


class _Passing(nn.Module):
    """A block that calls its attention and returns its input."""

    def __init__(self, block):
        super().__init__()
        self.block, self.attn = block, block.attn
        for name in ("window_size", "input_resolution", "shift_size"):
            setattr(self, name, getattr(block, name))

    def forward(self, x):
        self.block(x)
        return x
