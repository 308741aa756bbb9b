"""What is linear in the number of tokens builds nothing that is quadratic in it."""

import pytest
import torch
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves

from fvit.attention import get

from .suite import WIDTH, cases_where, every_case, prefix_of, tokens_of


class Largest(TorchDispatchMode):
    """The number of elements of the largest tensor that any operation returns."""

    elements = 0

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        out = func(*args, **(kwargs or {}))
        sizes = [leaf.numel() for leaf in tree_leaves(out) if isinstance(leaf, torch.Tensor)]
        self.elements = max([self.elements, *sizes])
        return out


def largest_tensor(case, side, masked):
    """Of the weights, and in a forward and a backward pass over `side`² patches, on meta: nothing is computed."""
    module = get(case.key)(WIDTH, 1, device="meta", dtype=torch.float64, **case.options)
    module.set_layout((side, side), prefix_of(case), case.block_index)
    x = tokens_of(module, batch=1).to("meta").requires_grad_()
    mask = torch.ones(1, 1, 1, x.shape[1], dtype=torch.bool, device="meta") if masked else None
    with Largest() as largest:
        module(x, attn_mask=mask).sum().backward()
    return max([largest.elements, *(tensor.numel() for tensor in [*module.parameters(), *module.buffers()])])


def assert_growth(case, masked):
    growth = largest_tensor(case, 56, masked) / largest_tensor(case, 28, masked)
    assert growth == pytest.approx(16 if case.quadratic else 4, rel=0.15)


@every_case
def test_memory_grows_with_the_number_of_tokens_or_with_its_square(case):
    """Four times the tokens need four times the memory, and sixteen times where all pairs are compared."""
    assert_growth(case, masked=False)


@cases_where(lambda case: case.masks)
def test_a_mask_over_keys_does_not_change_that(case):
    assert_growth(case, masked=True)
