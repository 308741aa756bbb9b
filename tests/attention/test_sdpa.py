"""Wherever softmax(QKᵀ)V stands torch's fused attention computes it, and no map of all pairs is made."""

import pytest
import torch
import torch.nn.functional as F
from torch.overrides import TorchFunctionMode

from .suite import build, cases_where, every_case, tokens_of

CALLS = {
    "softmax": 1,
    "gated": 1,
    "linformer": 1,
    "synthesizer": 1,  # of dense queries, whose keys are learned
    "differential": 2,
    "window": 2,  # patches in their windows; prefix tokens
    "agent": 2,
    "nystrom": 2,  # the third softmax is inverted, and has as many rows as there are landmarks
}
"""How often a mechanism calls it."""


def makes_its_map(case):
    """None of the pairs' softmaxes has queries and keys, or keys narrower than the tokens are many."""
    return case.key == "random" or (case.key == "synthesizer" and case.options.get("kind", "dense") != "dense")


class Recorder(TorchFunctionMode):
    """Counts calls of torch's fused attention, and collects the shapes of softmaxes outside of it."""

    def __init__(self):
        super().__init__()
        self.fused, self.shapes = 0, []

    def __torch_function__(self, func, types, args=(), kwargs=None):
        out = func(*args, **(kwargs or {}))
        self.fused += func is F.scaled_dot_product_attention
        if func in (torch.softmax, torch.Tensor.softmax, F.softmax):
            self.shapes.append(tuple(out.shape))
        return out


@pytest.mark.parametrize("masked", [False, True], ids=["", "masked"])
@every_case
def test_a_softmax_between_tokens_is_fused(case, masked):
    module = build(case)
    x = tokens_of(module)
    tokens = x.shape[1]
    mask = torch.ones(1, 1, 1, tokens, dtype=torch.bool) if masked and case.masks else None
    with Recorder() as recorder:
        module(x, attn_mask=mask)
    pairs = [shape for shape in recorder.shapes if shape[-2:] == (tokens, tokens)]
    if makes_its_map(case):
        assert (recorder.fused, len(pairs)) == (0, 1)
    else:
        assert (recorder.fused, pairs) == (CALLS.get(case.key, 0), [])


@cases_where(lambda case: case.key in CALLS and not makes_its_map(case))
def test_fused_attention_is_told_of_dropout_in_training_alone(case, monkeypatch):
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
