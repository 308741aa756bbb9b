"""Mechanisms that sum tokens before they project them: the same function as in the order of the formula."""

import pytest
import torch
from torch.utils.flop_counter import FlopCounterMode

from fvit.attention import get

from .suite import assert_same, randomise, tokens_of, values_and_gradients

KEEP = torch.tensor([[1, 1, 0, 1, 0, 1, 1], [0, 1, 1, 1, 1, 0, 1]], dtype=torch.bool)
MASKS = {
    "no mask": None,
    "hidden tokens": KEEP[:, None, None],
    "weighed tokens": torch.linspace(-2, 2, 7, dtype=torch.float64).view(1, 1, 1, 7),
}

every_mechanism = pytest.mark.parametrize(
    ("name", "options"),
    [("separable", {}), ("linformer", {"projected_tokens": 3}), ("linformer", {"projected_tokens": 7})],
    ids=lambda part: part if isinstance(part, str) else "-".join(map(str, part.values())),
)


def twins(name, dtype=torch.float64, device=None, grid=(2, 3), **options):
    """The mechanism as it is written, and as it is evaluated, with the same weights."""
    torch.manual_seed(0)
    textbook, auto = (get(name)(16, 4, dtype=dtype, device=device, **options) for _ in range(2))
    for module in (textbook, auto):
        module.set_layout(grid, 1)
    auto.load_state_dict(randomise(textbook, std=0.5).state_dict(), strict=True)
    textbook.form = "textbook"
    return textbook, auto


def everything(module, mask=None):
    def seeded(x):
        torch.manual_seed(3)
        return module(x, attn_mask=mask)

    x = tokens_of(module)
    return values_and_gradients(module, seeded, x, x.flip(0))


@every_mechanism
@pytest.mark.parametrize("qkv_bias", [True, False])
@pytest.mark.parametrize("mask", MASKS)
def test_both_orders_agree_in_values_and_gradients(name, options, qkv_bias, mask):
    textbook, auto = twins(name, qkv_bias=qkv_bias, **options)
    assert_same(everything(auto, MASKS[mask]), everything(textbook, MASKS[mask]), tolerance=1e-12)


@every_mechanism
def test_both_orders_drop_the_same_weights(name, options):
    textbook, auto = (module.train() for module in twins(name, attn_drop=0.5, proj_drop=0.2, **options))
    assert_same(everything(auto), everything(textbook), tolerance=1e-12)


@every_mechanism
def test_the_order_is_the_one_with_fewer_products(name, options):
    macs = []
    for module in twins(name, device="meta", **options):
        with FlopCounterMode(display=False) as counter:
            module(torch.empty(2, 7, 16, dtype=torch.float64, device="meta"))
        macs.append(counter.get_total_flops() // 2)
    # Of the projections of keys, and of values where these are summed, k rows a sum are left of N.
    summed, rows = {"separable": (1, 1), "linformer": (2, options.get("projected_tokens"))}[name]
    assert macs[0] - macs[1] == 2 * summed * (7 - rows) * 16 * 16
