"""Mechanisms that are linear in the number of tokens build nothing quadratic; softmax attention is always fused."""

import pytest
import torch
import torch.nn.functional as F
from torch.overrides import TorchFunctionMode
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves

from fvit.attention import get
from fvit.attention.zoo import differential

from .cases import DEFAULTS, FULL
from .suite import WIDTH, build, every_default, every_full, over, prefix_of, tokens_of


class Largest(TorchDispatchMode):
    """The number of elements of the largest tensor that any operation returns."""

    elements = 0

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        out = func(*args, **(kwargs or {}))
        sizes = [leaf.numel() for leaf in tree_leaves(out) if isinstance(leaf, torch.Tensor)]
        self.elements = max([self.elements, *sizes])
        return out


def largest_tensor(case, side, masked):
    """Among the weights and in a forward and backward pass over `side`² patches, on the meta device."""
    module = get(case.key)(WIDTH, 1, device="meta", dtype=torch.float64, **case.options)
    module.set_layout((side, side), prefix_of(case), case.block_index)
    x = tokens_of(module, batch=1).to("meta").requires_grad_()
    mask = torch.ones(1, 1, 1, x.shape[1], dtype=torch.bool, device="meta") if masked else None
    with Largest() as largest:
        module(x, attn_mask=mask).sum().backward()
    return max([largest.elements, *(tensor.numel() for tensor in [*module.parameters(), *module.buffers()])])


@pytest.mark.slow
@every_full
def test_memory_is_linear_or_quadratic_in_the_number_of_tokens(case):
    for masked in (False, True) if case.masks else (False,):
        growth = largest_tensor(case, 56, masked) / largest_tensor(case, 28, masked)
        assert growth == pytest.approx(16 if case.quadratic else 4, rel=0.15)


CALLS = {
    "softmax": 1,
    "gated": 1,
    "linformer": 1,
    "synthesizer": 1,  # of kind dense
    "differential": 2,
    "window": 2,  # patches in their windows; prefix tokens
    "neighborhood": 2,  # patches among their neighbours; prefix tokens
    "agent": 2,
    "nystrom": 2,  # the third softmax is inverted, and is between landmarks
}
"""How often a mechanism calls torch's fused attention."""


def builds_its_map(case):
    """The softmax is not of queries and keys, or of keys wider than the number of tokens."""
    return case.key == "random" or (case.key == "synthesizer" and case.options.get("kind", "dense") != "dense")


class Recorder(TorchFunctionMode):
    """Counts calls of torch's fused attention, and collects the shapes of other softmaxes."""

    def __init__(self):
        super().__init__()
        self.fused, self.shapes = 0, []

    def __torch_function__(self, func, types, args=(), kwargs=None):
        out = func(*args, **(kwargs or {}))
        self.fused += func is F.scaled_dot_product_attention
        if func in (torch.softmax, torch.Tensor.softmax, F.softmax):
            self.shapes.append(tuple(out.shape))
        return out


@every_default
def test_a_softmax_between_tokens_is_fused(case):
    module = build(case)
    x = tokens_of(module)
    tokens = x.shape[1]
    for mask in (None, torch.ones(1, 1, 1, tokens, dtype=torch.bool)) if case.masks else (None,):
        with Recorder() as recorder:
            module(x, attn_mask=mask)
        maps = [shape for shape in recorder.shapes if shape[-2:] == (tokens, tokens)]
        assert (recorder.fused, len(maps)) == ((0, 1) if builds_its_map(case) else (CALLS.get(case.key, 0), 0))


@over(DEFAULTS, lambda case: case.key in CALLS)
def test_fused_attention_drops_weights_only_in_training(case, monkeypatch):
    module, rates, real = build(case, attn_drop=0.5), [], F.scaled_dot_product_attention

    def spy(*args, dropout_p=0.0, **kwargs):
        rates.append(dropout_p)
        return real(*args, dropout_p=dropout_p, **kwargs)

    monkeypatch.setattr(F, "scaled_dot_product_attention", spy)
    module.train()(tokens_of(module))
    assert max(rates) == 0.5
    rates.clear()
    module.eval()(tokens_of(module))
    assert max(rates) == 0


@over(DEFAULTS + FULL, lambda case: case.key in CALLS)
def test_fused_attention_gets_no_wide_values_and_no_mask_per_image(case, monkeypatch):
    """Flash attention takes values as wide as keys, and a mask that is the same for all images is not repeated."""
    real, seen = F.scaled_dot_product_attention, []

    def spy(q, k, v, attn_mask=None, **kwargs):
        seen.append((v.shape[-1] == k.shape[-1], attn_mask is None or attn_mask.ndim < 4 or len(attn_mask) == 1))
        return real(q, k, v, attn_mask, **kwargs)

    monkeypatch.setattr(F, "scaled_dot_product_attention", spy)
    monkeypatch.setattr(differential, "FLASH", ("cpu",))
    module = build(case)
    module(tokens_of(module, batch=3))
    assert all(equally_wide for equally_wide, _ in seen)
    assert all(shared for _, shared in seen)
