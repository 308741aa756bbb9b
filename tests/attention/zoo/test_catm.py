import pytest
import torch

from fvit.attention import Catm

from ..suite import randomise


def on_a_line(length):
    torch.manual_seed(0)
    module = randomise(Catm(8, 2, dtype=torch.float64))
    module.set_layout((1, length), 1)
    return module, torch.randn(1, length + 1, 8, dtype=torch.float64)


def felt(module, x, token):
    """The tokens whose output changes with one token of the input."""
    changed = x.clone()
    changed[:, token] += 1
    return ((module(x) - module(changed)).abs().amax(dim=(0, 2)) > 1e-9).nonzero().flatten().tolist()


def test_without_channel_gates_three_convolutions_reach_three_patches_far():
    module, x = on_a_line(9)
    with torch.no_grad():
        for gate in module.channel_gate:
            gate.weight.zero_()
    assert felt(module, x, 5) == [2, 3, 4, 5, 6, 7, 8]
    assert felt(module, x, 0) == [0]


def test_the_channel_gates_bring_all_tokens_to_all():
    module, x = on_a_line(9)
    for token in (0, 1, 9):
        assert felt(module, x, token) == list(range(10))


def test_tokens_that_do_not_fill_the_grid_are_refused():
    module, _ = on_a_line(4)
    with pytest.raises(ValueError, match="Catm got 7 tokens where set_layout told of 1 before a grid of 1×4"):
        module(torch.randn(1, 7, 8, dtype=torch.float64))
