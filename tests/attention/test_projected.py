"""The depth-wise convolution on the values, an option that all mechanisms with a joint projection share."""

import pytest
import torch

from fvit.attention import Projected, get

from .cases import DEFAULTS
from .refs import affine, convolved, kept
from .suite import over, randomise, tokens_of

GATES = {"gated": lambda module, x: module.gate(x).sigmoid(), "rala": lambda module, x: module.gate(x)}
"""What multiplies the sum of attention and convolution."""

PER_HEAD = ("focused", "nystrom", "pola")
"""Have fewer kernels than channels, and references that include the convolution."""

of_projected = over(DEFAULTS, lambda case: issubclass(get(case.key), Projected))


def make(key, conv, prefix=2):
    torch.manual_seed(0)
    module = get(key)(16, 2, conv=conv, dtype=torch.float64)
    module.set_layout((3, 4), prefix)
    return randomise(module, std=0.5)


@over(DEFAULTS, lambda case: issubclass(get(case.key), Projected) and case.key not in PER_HEAD)
def test_values_are_convolved_under_a_mask(case):
    """What the output projection reads differs by DWC(v), to which a hidden patch is zero."""
    plain, module = make(case.key, 0), make(case.key, 3)
    plain.load_state_dict({name: t for name, t in module.state_dict().items() if not name.startswith("conv.")})
    x = tokens_of(module)
    keep = torch.ones(2, 14, dtype=torch.bool)
    keep[0, [0, 5]], keep[1, 9:] = False, False
    read = []
    for one in (plain, module):
        one.proj.register_forward_pre_hook(lambda _, inputs: read.append(inputs[0]))
        one(x, attn_mask=keep[:, None, None])
    values = affine(module.qkv, x).chunk(3, dim=-1)[2]
    expected = torch.stack([convolved(module, module.conv, values[b], kept(14, keep, b)) for b in range(2)])
    if case.key in GATES:
        expected = expected * GATES[case.key](module, x)
    torch.testing.assert_close(read[1] - read[0], expected)


@of_projected
def test_it_needs_the_grid_and_a_centre_and_refuses_what_it_cannot_honour(case):
    module = make(case.key, 3)
    assert module.needs_grid
    assert not module.takes_pair_mask
    with pytest.raises(ValueError, match=r"conv=2 has no centre"):
        make(case.key, 2)
    with pytest.raises(ValueError, match="cannot be causal"):
        module(tokens_of(module), is_causal=True)
    with pytest.raises(ValueError, match="only supports a mask over keys"):
        module(tokens_of(module), attn_mask=torch.ones(14, 14, dtype=torch.bool)[None, None])


def test_a_forward_that_ignores_it_is_refused():
    class Own(Projected):
        def forward(self, x, attn_mask=None, is_causal=False):
            return self.output(self.heads(x)[2])

    Own(16)
    with pytest.raises(ValueError, match="the forward of Own adds no convolution of its values; use conv=0"):
        Own(16, conv=3)
