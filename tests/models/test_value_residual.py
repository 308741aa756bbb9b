"""Blocks of a model share the first one's values, in every way in which models are run and copied."""

import copy

import pytest
import torch

from fvit.models import exchange

from .small import host_of, images, small_host

LEARNED, FIXED = ({"name": "softmax", "value_residual": kind} for kind in ("learned", "fixed"))
# One per way of calling attention that all blocks of a host have in common.
HOSTS = ["vit", "distilled", "beit, shared bias", "eva02", "vit5", "cait", "naflex"]


def gradients(model, *inputs):
    model.zero_grad()
    torch.stack([model(x).square().sum() for x in inputs]).sum().backward()
    return {name: parameter.grad.clone() for name, parameter in model.named_parameters()}


def by_formula(model, image, lambdas):
    """A ViT of 3 blocks from torch's functions; `lambdas` of blocks 1 and 2."""
    x = model.patch_embed(image)
    x = torch.cat([model.cls_token.expand(len(x), -1, -1), x], dim=1) + model.pos_embed
    for index, block in enumerate(model.blocks):
        q, k, v = (t.unflatten(-1, (3, 8)).transpose(1, 2) for t in block.attn.qkv(block.norm1(x)).chunk(3, dim=-1))
        if index == 0:
            first = v
        else:
            v = lambdas[index - 1][0] * first + lambdas[index - 1][1] * v
        out = (q @ k.mT / 8**0.5).softmax(dim=-1) @ v
        x = x + block.attn.proj(out.transpose(1, 2).flatten(2))
        x = x + block.mlp(block.norm2(x))
    return model.head(model.norm(x)[:, 0])


@pytest.mark.parametrize(("attention", "lambdas"), [(LEARNED, [(0.3, 0.9), (-0.2, 1.5)]), (FIXED, [(0.5, 0.5)] * 2)])
def test_equals_the_formula(attention, lambdas):
    model = exchange(host_of("vit"), attention).double()
    if attention is LEARNED:
        for block, pair in zip(model.blocks[1:], lambdas, strict=True):
            block.attn.value_residual.lambdas.data.copy_(torch.tensor(pair, dtype=torch.float64))
    x = images().double()
    expected = by_formula(model, x, lambdas)
    assert not torch.allclose(expected, by_formula(model, x, [(0, 1)] * 2), rtol=0.1)
    torch.testing.assert_close(model(x), expected, rtol=1e-12, atol=1e-12)


def test_only_later_blocks_have_weights_which_start_at_a_half():
    model = exchange(small_host(), LEARNED)
    weights = {name: weight.tolist() for name, weight in model.named_parameters() if "value_residual" in name}
    assert weights == {f"blocks.{block}.attn.value_residual.lambdas": [0.5, 0.5] for block in (1, 2)}
    assert not [name for name, _ in exchange(small_host(), FIXED).named_parameters() if "value_residual" in name]


@pytest.mark.parametrize("kind", HOSTS)
def test_gradient_checkpointing_computes_the_same_gradients(kind):
    """Also if two forward passes precede the backward pass of both, which computes all blocks of both again."""
    model = exchange(host_of(kind, std=0.3), LEARNED).train()
    inputs = images(), 1 - 0.5 * images()
    expected = gradients(model, *inputs)
    model.set_grad_checkpointing()
    torch.testing.assert_close(gradients(model, *inputs), expected, rtol=1e-4, atol=1e-5)
    assert all(gradient.any() for name, gradient in expected.items() if "lambdas" in name)


def test_values_do_not_outlive_a_forward_pass():
    model = exchange(small_host(), LEARNED)
    for context in (torch.no_grad, torch.enable_grad):
        with context():
            model(images())
        assert model.first_values.values is None


@pytest.mark.parametrize("kind", ["vit", "eva02"])
def test_copies_have_values_of_their_own(kind):
    model = exchange(host_of(kind), LEARNED).train()
    model.set_grad_checkpointing()
    gradients(model, images())
    twin = copy.deepcopy(model)
    assert twin.first_values is not model.first_values
    before = model(images())
    assert torch.equal(twin(images()), before)
    with torch.no_grad():
        for parameter in model.blocks[0].parameters():
            parameter.zero_()
    assert torch.equal(twin(images()), before)
    assert not torch.equal(model(images()), before)


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore:The .grad attribute of a Tensor")  # torch.compile reads that of V_1
@pytest.mark.parametrize("checkpointing", [False, True])
def test_compiled_models_compute_the_same(checkpointing):
    """In one graph without gradient checkpointing, whose blocks torch.compile leaves to Python."""
    model = exchange(host_of("vit"), LEARNED).train()
    model.set_grad_checkpointing(checkpointing)
    inputs = images(), 1 - 0.5 * images()
    expected = gradients(model, *inputs)
    model.compile(backend="aot_eager", fullgraph=not checkpointing)
    torch.testing.assert_close(gradients(model, *inputs), expected, rtol=1e-4, atol=1e-5)


def test_weights_load_into_another_model():
    one, other = (exchange(host_of("vit", std), LEARNED) for std in (0.5, 0.4))
    other.load_state_dict(one.state_dict(), strict=True)
    assert torch.equal(other(images()), one(images()))


def test_a_second_exchange_connects_old_and_new_blocks():
    model = exchange(host_of("vit"), LEARNED)
    expected = model(images())
    exchange(model, LEARNED, blocks=[0])
    assert torch.equal(model(images()), expected)
    exchange(model, "softmax")
    assert model.first_values is None


@pytest.mark.parametrize("blocks", ["1-2", [2]])
def test_blocks_without_a_first_one_of_the_same_kind_are_refused(blocks):
    model = small_host()
    with pytest.raises(ValueError, match="block 0 must also be softmax with value_residual and 3 heads"):
        exchange(model, LEARNED, blocks=blocks)
    assert all(type(block.attn).__name__ == "Attention" for block in model.blocks)


def test_the_first_block_cannot_be_taken_away_or_get_other_heads():
    model = exchange(host_of("vit"), LEARNED)
    before = model(images())
    for other in ("softmax", "linear", {**LEARNED, "num_heads": 2}):
        with pytest.raises(ValueError, match="block 1 mixes the first block's values"):
            exchange(model, other, blocks=[0])
    assert torch.equal(model(images()), before)


def test_swin_is_refused():
    with pytest.raises(ValueError, match="Swin's stages and windows have different tokens"):
        exchange(host_of("swin"), LEARNED)


def test_a_block_alone_says_what_it_needs():
    model = exchange(small_host(), LEARNED)
    with pytest.raises(RuntimeError, match="block 1 has a value residual, but the first block has not run before it"):
        model.blocks[1](torch.randn(1, 17, 24))


def test_attention_maps_need_no_first_block():
    model, plain = exchange(host_of("vit"), LEARNED), exchange(host_of("vit"), "softmax")
    x = torch.randn(2, 17, 24)
    torch.testing.assert_close(model.blocks[1].attn.weights(x), plain.blocks[1].attn.weights(x))
