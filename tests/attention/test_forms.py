"""Additive attention in its textbook, factored and folded forms: one function, with one state dict."""

import itertools

import pytest
import torch
from torch import nn

from fvit.attention import Additive
from fvit.cost import count
from fvit.models import FViT

from .suite import assert_same, randomise, values_and_gradients

CHOICES = ("factored", "folded")
FAST = (*CHOICES, "auto")
OPTIONS = [
    dict(logits=logits, value=value, proj=proj, qkv_bias=qkv_bias)
    for logits, value, proj, qkv_bias in itertools.product(
        ("per_head", "full"), ("shared", "separate"), (False, True), (True, False)
    )
]
every_option = pytest.mark.parametrize("options", OPTIONS, ids=lambda o: "-".join(map(str, o.values())))
every_fast_form = pytest.mark.parametrize("form", FAST)

KEEP = torch.tensor([[1, 1, 0, 1, 0, 1, 1], [0, 1, 1, 1, 1, 0, 1]], dtype=torch.bool)
MASKS = {
    "no mask": None,
    "hidden tokens": KEEP[:, None, None],
    "weighed tokens": torch.linspace(-2, 2, 7, dtype=torch.float64).view(1, 1, 1, 7),
}


def twins(form, std=0.5, **options):
    """The textbook form and another one, with the same weights."""
    torch.manual_seed(0)
    textbook, fast = (Additive(24, 4, dtype=torch.float64, form=f, **options) for f in ("textbook", form))
    fast.load_state_dict(randomise(textbook, std).state_dict(), strict=True)
    return textbook, fast


def tokens(dtype=torch.float64, count=7):
    return torch.randn(2, count, 24, generator=torch.Generator().manual_seed(1), dtype=torch.float64).to(dtype)


def everything(module, x, **forward):
    """The output and all gradients, with dropout as the seed draws it."""

    def seeded(x):
        torch.manual_seed(3)
        return module(x, **forward)

    return values_and_gradients(module, seeded, x, tokens(x.dtype, x.shape[1]).flip(0))


@every_fast_form
@every_option
@pytest.mark.parametrize("mask", MASKS)
def test_forms_agree_in_values_and_gradients(form, options, mask):
    textbook, fast = twins(form, **options)
    x = tokens()
    ours, theirs = (everything(module, x, attn_mask=MASKS[mask]) for module in (fast, textbook))
    assert_same(ours, theirs, tolerance=1e-12)


@every_fast_form
@every_option
def test_forms_drop_the_same_weights_and_outputs(form, options):
    textbook, fast = (module.train() for module in twins(form, attn_drop=0.3, proj_drop=0.2, **options))
    assert_same(everything(fast, tokens()), everything(textbook, tokens()), tolerance=1e-12)


@every_fast_form
@every_option
def test_forms_agree_under_no_grad_too(form, options):
    textbook, fast = (module.eval() for module in twins(form, **options))
    with torch.no_grad():
        torch.testing.assert_close(fast(tokens()), textbook(tokens()), rtol=1e-12, atol=1e-12)


@every_fast_form
@every_option
def test_forms_agree_under_autocast_as_far_as_bfloat16_goes(form, options):
    """Each is off by at most 2 % of the output's norm, and so are all its gradients together."""
    textbook, fast = (module.float() for module in twins(form, std=0.25, **options))
    x = tokens(torch.float32)
    exact = everything(textbook.double(), x.double())
    for module in (textbook.float(), fast):
        with torch.autocast("cpu", dtype=torch.bfloat16):
            ours = everything(module, x)
        for part in ("out", "d "):
            actual, expected = (
                torch.cat([t.flatten().double() for name, t in results.items() if name.startswith(part)])
                for results in (ours, exact)
            )
            assert (actual - expected).norm() < 0.02 * expected.norm()


class UnderEachMask(nn.Module):
    def __init__(self, module):
        super().__init__()
        self.module = module

    def forward(self, x, *masks):
        return torch.stack([self.module(x, attn_mask=mask) for mask in masks])


@pytest.mark.slow
@pytest.mark.parametrize("form", CHOICES)
@every_option
def test_an_exported_form_agrees(form, options):
    textbook, fast = (UnderEachMask(module.eval()) for module in twins(form, **options))
    inputs = (tokens(), *MASKS.values())
    exported = torch.export.export(fast, inputs).module()
    torch.testing.assert_close(exported(*inputs), textbook(*inputs), rtol=1e-12, atol=1e-12)


@pytest.mark.slow
@pytest.mark.exhaustive
@pytest.mark.parametrize("form", CHOICES)
@every_option
def test_a_captured_form_agrees_in_values_and_gradients(form, options):
    """As graphs of the way there and the way back, run without generated code."""
    torch.compiler.reset()
    textbook, fast = (UnderEachMask(module) for module in twins(form, **options))
    fast.compile(fullgraph=True, backend="aot_eager")
    upstream = torch.randn(3, 2, 7, 24, generator=torch.Generator().manual_seed(2), dtype=torch.float64)
    ours, theirs = (
        values_and_gradients(module, lambda x, module=module: module(x, *MASKS.values()), tokens(), upstream)
        for module in (fast, textbook)
    )
    assert_same(ours, theirs, tolerance=1e-12)


@pytest.mark.slow
@every_fast_form
def test_a_compiled_form_agrees(form):
    torch.compiler.reset()
    textbook, fast = (module.float() for module in twins(form, std=0.25, proj=True))
    fast.compile(fullgraph=True)
    ours, theirs = (everything(module, tokens(torch.float32)) for module in (fast, textbook))
    for name in theirs:
        torch.testing.assert_close(ours[name], theirs[name], rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize(
    ("tokens", "options", "cheapest"),
    [
        (23, {}, "factored"),
        (25, {}, "folded"),
        (11, {"proj": True}, "factored"),
        (13, {"proj": True}, "folded"),
        (13, {"value": "separate"}, "folded"),
        (7, {"value": "separate", "proj": True}, "factored"),
        (9, {"value": "separate", "proj": True}, "folded"),
    ],
)
def test_auto_takes_the_form_with_the_fewest_products(tokens, options, cheapest):
    module = Additive(24, 4, **options)
    assert module.cheapest_form(tokens) == cheapest
    x = torch.randn(1, tokens, 24)
    forced = Additive(24, 4, **options, form=cheapest)
    forced.load_state_dict(module.state_dict())
    assert torch.equal(module(x), forced(x))


def test_the_papers_count_is_of_the_textbook_and_the_true_one_of_what_is_computed():
    shape = dict(img_size=64, patch_size=8, embed_dim=48, depth=2, num_heads=4, num_classes=5)
    costs = {f: count(FViT(**shape, attention={"name": "additive", "form": f}), 64) for f in ("textbook", *FAST)}
    assert len({(cost.params, cost.macs_paper) for cost in costs.values()}) == 1
    assert costs["auto"].macs == costs["folded"].macs < costs["factored"].macs < costs["textbook"].macs
