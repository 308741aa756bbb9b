import random

import pytest
import torch

from fvit.attention import Additive

from . import references
from .references import ADDITIVE_FAULTS, assert_equals_reference, randomise, weights_of


def random_mask(kind, batch, tokens):
    """A mask as SDPA takes it, and what it adds to the logits."""
    if kind == "none":
        return {}, None
    if kind == "float":
        bias = torch.randn(batch, tokens, dtype=torch.float64)
        return {"attn_mask": bias[:, None, None]}, bias
    keep = torch.rand(batch, tokens) < 0.6
    keep[:, 0] = True
    return {"attn_mask": keep[:, None, None]}, torch.zeros(batch, tokens, dtype=torch.float64).masked_fill(
        ~keep, float("-inf")
    )


@pytest.mark.parametrize("seed", range(3))
@pytest.mark.parametrize("mask", ["none", "bool", "float"])
@pytest.mark.parametrize("proj", [False, True])
@pytest.mark.parametrize("value", ["shared", "separate"])
@pytest.mark.parametrize("logits", ["per_head", "full"])
def test_equals_the_formula(logits, value, proj, mask, seed):
    torch.manual_seed(seed)
    shape = random.Random(f"{logits}{value}{proj}{mask}{seed}")
    batch, tokens, heads, head_dim = (shape.randint(1, high) for high in (3, 6, 4, 4))
    module = randomise(
        Additive(heads * head_dim, heads, logits=logits, value=value, proj=proj, dtype=torch.float64), std=0.7
    )
    forward, key_bias = random_mask(mask, batch, tokens)
    # The module has no biases on its logits. If they could matter, the reference, which has them, would differ.
    query_logit_bias, key_logit_bias = torch.randn(2, heads, dtype=torch.float64)

    def reference(x, weights):
        return references.additive(x, weights, heads, logits, key_bias, query_logit_bias, key_logit_bias)

    x = torch.randn(batch, tokens, heads * head_dim, dtype=torch.float64)
    assert_equals_reference(module, reference, x, **forward)


@pytest.mark.parametrize("qkv_bias", [True, False])
def test_qkv_bias_is_on_query_and_key_only(qkv_bias):
    biased = {name for name, _ in Additive(8, 2, qkv_bias=qkv_bias).named_parameters() if name.endswith("bias")}
    assert biased == ({"q.bias", "k.bias", "transform.bias"} if qkv_bias else {"transform.bias"})


def test_equals_the_formula_without_qkv_bias():
    torch.manual_seed(0)
    module = randomise(Additive(6, 2, qkv_bias=False, dtype=torch.float64))
    x = torch.randn(2, 4, 6, dtype=torch.float64)
    assert_equals_reference(module, lambda x, weights: references.additive(x, weights, 2, "per_head"), x)


@pytest.mark.parametrize("fault", ADDITIVE_FAULTS)
@pytest.mark.parametrize("logits", ["per_head", "full"])
def test_bug_museum(logits, fault):
    """Each classical fault is far from the module, so that the comparison with the formula catches it."""
    torch.manual_seed(0)
    module = randomise(Additive(12, 3, logits=logits, dtype=torch.float64), std=0.3)
    x = torch.randn(2, 5, 12, dtype=torch.float64)
    biases = torch.randn(2, 3, dtype=torch.float64)
    right = references.additive(x, weights_of(module), 3, logits, None, *biases)
    wrong = references.additive(x, weights_of(module), 3, logits, None, *biases, fault=fault)
    out = module(x)
    torch.testing.assert_close(out, right, rtol=1e-10, atol=1e-10)
    assert (out - wrong).abs().max() > 0.2 * out.abs().max()


@pytest.mark.parametrize("option", ["logits", "value", "form"])
def test_unknown_choice_is_refused_with_the_known_ones(option):
    known = {"logits": "per_head, full", "value": "shared, separate", "form": "textbook"}[option]
    with pytest.raises(ValueError, match=f"{option}='nonsense' is none of {known}"):
        Additive(8, 2, **{option: "nonsense"})


@pytest.mark.parametrize(
    ("options", "expected"),
    [
        ({}, 3 * (64 * 64 + 64) + 2 * 64),
        ({"logits": "full"}, 3 * (64 * 64 + 64) + 2 * 4 * 64),
        ({"value": "separate"}, 4 * (64 * 64 + 64) + 2 * 64),
        ({"proj": True}, 4 * (64 * 64 + 64) + 2 * 64),
        ({"qkv_bias": False}, 3 * 64 * 64 + 64 + 2 * 64),
    ],
    ids=str,
)
def test_number_of_parameters(options, expected):
    assert sum(p.numel() for p in Additive(64, 4, **options).parameters()) == expected


def test_logit_vectors_are_drawn_like_timms_linears():
    torch.manual_seed(0)
    module = Additive(256, 8)
    for weight in (module.query_logit, module.key_logit):
        assert weight.detach().std() == pytest.approx(0.02, rel=0.2)
