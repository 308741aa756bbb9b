"""Mechanisms with several orders of evaluation: additive, separable and Linformer's. Each is one function."""

import itertools

import pytest
import torch
from torch import nn
from torch.utils.flop_counter import FlopCounterMode

from fvit.attention import AdditiveAttention, get
from fvit.cost import count
from fvit.models import FViT

from .suite import assert_same, randomise, tokens_of, values_and_gradients
from .test_numerics import relative_errors

FORMS = ("factored", "folded")
OPTIONS = [
    ("additive", dict(logits=logits, value=value, proj=proj, qkv_bias=qkv_bias))
    for logits, value, proj, qkv_bias in itertools.product(
        ("per_head", "full"), ("shared", "separate"), (False, True), (True, False)
    )
]
OTHERS = [
    *(("separable", dict(qkv_bias=qkv_bias)) for qkv_bias in (True, False)),
    *(("linformer", dict(projected_tokens=k, qkv_bias=b)) for k in (3, 7) for b in (True, False)),
]


def named(part):
    return part if isinstance(part, str) else "-".join(map(str, part.values()))


every_additive = pytest.mark.parametrize(("key", "options"), OPTIONS, ids=named)
every_mechanism = pytest.mark.parametrize(("key", "options"), [*OPTIONS, *OTHERS], ids=named)

KEEP = torch.tensor([[1, 1, 0, 1, 0, 1, 1], [0, 1, 1, 1, 1, 0, 1]], dtype=torch.bool)
MASKS = (None, KEEP[:, None, None], torch.linspace(-2, 2, 7, dtype=torch.float64).view(1, 1, 1, 7))


def forms_of(key, std=0.5, device=None, **options):
    """The textbook form and the others, with the same weights, on 7 tokens."""
    modules = []
    for form in ("textbook", *(FORMS if key == "additive" else ("auto",))):
        torch.manual_seed(0)
        module = get(key)(24, 4, dtype=torch.float64, device=device, **options)
        module.form = form
        module.set_layout((2, 3), 1)
        modules.append(randomise(module, std))
    return modules


def everything(module, mask=None, x=None):
    """Output and gradients, with dropout from a fixed seed."""

    def seeded(x):
        torch.manual_seed(3)
        return module(x, attn_mask=mask)

    x = tokens_of(module) if x is None else x
    return values_and_gradients(module, seeded, x, x.flip(0))


@every_mechanism
def test_forms_agree_in_values_and_gradients(key, options):
    textbook, *fast = forms_of(key, **options)
    for mask in MASKS:
        expected = everything(textbook, mask)
        for module in fast:
            assert_same(everything(module, mask), expected, tolerance=1e-12)


@every_mechanism
def test_forms_drop_the_same_weights_and_outputs(key, options):
    textbook, *fast = forms_of(key, attn_drop=0.3, proj_drop=0.2, **options)
    for module in fast:
        assert_same(everything(module), everything(textbook), tolerance=1e-12)


@every_additive
def test_forms_agree_under_autocast(key, options):
    """Output and gradients are off by at most 2 % of their norm."""
    modules = forms_of(key, std=0.25, **options)
    x = tokens_of(modules[0]).float()
    exact = everything(modules[0], x=x.double())
    for module in modules:
        with torch.autocast("cpu", dtype=torch.bfloat16):
            ours = everything(module.float(), x=x)
        assert all(error < 0.02 for error in relative_errors(ours, exact))


class UnderEachMask(nn.Module):
    def __init__(self, module):
        super().__init__()
        self.module = module

    def forward(self, x, *masks):
        return torch.stack([self.module(x, attn_mask=mask) for mask in masks])


@pytest.mark.slow
@pytest.mark.parametrize(
    ("key", "options"),
    [
        pytest.param(
            *case, id="-".join([case[0], named(case[1])]), marks=[] if index % 5 == 0 else pytest.mark.exhaustive
        )
        for index, case in enumerate(OPTIONS)
    ],
)
def test_exported_forms_agree(key, options):
    textbook, *fast = (UnderEachMask(module.eval()) for module in forms_of(key, **options))
    inputs = (tokens_of(textbook.module), *MASKS)
    for module in fast:
        exported = torch.export.export(module, inputs).module()
        torch.testing.assert_close(exported(*inputs), textbook(*inputs), rtol=1e-12, atol=1e-12)


@pytest.mark.slow
@pytest.mark.exhaustive
@every_additive
def test_captured_forms_agree_in_values_and_gradients(key, options):
    """As forward and backward graphs, run without generated code."""
    torch.compiler.reset()
    textbook, *fast = (UnderEachMask(module) for module in forms_of(key, **options))
    x, upstream = tokens_of(textbook.module), torch.randn(3, 2, 7, 24, dtype=torch.float64)
    expected = values_and_gradients(textbook, lambda x: textbook(x, *MASKS), x, upstream)
    for module in fast:
        module.compile(fullgraph=True, backend="aot_eager")
        ours = values_and_gradients(module, lambda x, module=module: module(x, *MASKS), x, upstream)
        assert_same(ours, expected, tolerance=1e-12)


@pytest.mark.slow
@pytest.mark.exhaustive  # tests/training/test_compile.py compiles the form that auto selects in a short run
@pytest.mark.parametrize("form", ["factored", "folded"])
def test_compiled_form_agrees(form):
    """Which takes half a minute."""
    torch.compiler.reset()
    textbook, *fast = (module.float() for module in forms_of("additive", std=0.25, proj=True))
    [module] = (module for module in fast if module.form == form)
    expected = everything(textbook)
    module.compile(fullgraph=True)
    for name, tensor in everything(module).items():
        torch.testing.assert_close(tensor, expected[name], rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize(
    ("tokens", "options", "fastest"),
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
def test_auto_selects_the_additive_form_with_the_fewest_macs_on_a_cpu(tokens, options, fastest):
    module = AdditiveAttention(24, 4, **options)
    assert module.fastest_form(tokens) == fastest
    x = torch.randn(1, tokens, 24)
    forced = AdditiveAttention(24, 4, **options, form=fastest)
    forced.load_state_dict(module.state_dict())
    assert torch.equal(module(x), forced(x))


@pytest.mark.parametrize(
    ("tokens", "compiled", "options", "fastest"),
    [
        (480, True, {}, "factored"),
        (481, True, {}, "folded"),
        (768, False, {}, "factored"),
        (769, False, {}, "folded"),
        (256, True, {"proj": True}, "factored"),
        (321, True, {"proj": True}, "folded"),
        (384, False, {"value": "separate", "proj": True}, "factored"),
        (385, False, {"value": "separate", "proj": True}, "folded"),
    ],
)
def test_auto_goes_by_the_bytes_on_cuda(tokens, compiled, options, fastest):
    assert AdditiveAttention(384, 6, **options, device="meta").fastest_form(tokens, "cuda", compiled) == fastest


def test_auto_knows_whether_it_is_compiled_and_where_it_runs(monkeypatch):
    asked = []

    def fastest_form(self, tokens, device, compiled):
        asked.append((tokens, device, compiled))
        return "folded"

    monkeypatch.setattr(AdditiveAttention, "fastest_form", fastest_form)
    module = AdditiveAttention(24, 4)
    module(torch.randn(1, 25, 24))
    torch.compiler.reset()
    torch.compile(module, backend="eager", fullgraph=True)(torch.randn(1, 25, 24))
    module.to("meta")(torch.randn(1, 25, 24, device="meta"))
    assert asked == [(25, "cpu", False), (25, "cpu", True), (25, "meta", False)]


@pytest.mark.parametrize(("key", "options"), OTHERS, ids=named)
def test_the_other_order_saves_macs(key, options):
    macs = []
    for module in forms_of(key, device="meta", **options):
        with FlopCounterMode(display=False) as counter:
            module(torch.empty(2, 7, 24, dtype=torch.float64, device="meta"))
        macs.append(counter.get_total_flops() // 2)
    # Keys, and Linformer's values, are projected after the sum: k rows instead of N.
    summed, rows = {"separable": (1, 1), "linformer": (2, options.get("projected_tokens"))}[key]
    assert macs[0] - macs[1] == 2 * summed * (7 - rows) * 24 * 24


def test_paper_macs_are_of_the_textbook_form_and_macs_of_the_computed_one():
    shape = dict(img_size=64, patch_size=8, embed_dim=48, depth=2, num_heads=4, num_classes=5)
    forms = ("textbook", *FORMS, "auto")
    costs = {form: count(FViT(**shape, attention={"name": "additive", "form": form}), 64) for form in forms}
    assert len({(cost.params, cost.macs_paper) for cost in costs.values()}) == 1
    assert costs["auto"].macs == costs["folded"].macs < costs["factored"].macs < costs["textbook"].macs
