import torch

from fvit.attention import CATM

from ..suite import randomise


def on_a_line(length):
    torch.manual_seed(0)
    module = randomise(CATM(8, 2, dtype=torch.float64))
    module.set_layout((1, length), 1)
    return module, torch.randn(1, length + 1, 8, dtype=torch.float64)


def affected(module, x, token):
    """The tokens whose output depends on one token of the input."""
    changed = x.clone()
    changed[:, token] += 1
    return ((module(x) - module(changed)).abs().amax(dim=(0, 2)) > 1e-9).nonzero().flatten().tolist()


def test_without_channel_gates_three_convolutions_reach_three_patches():
    module, x = on_a_line(9)
    with torch.no_grad():
        for gate in module.channel_gate:
            gate.weight.zero_()
    assert affected(module, x, 5) == [2, 3, 4, 5, 6, 7, 8]
    assert affected(module, x, 0) == [0]


def test_the_channel_gates_connect_all_tokens():
    module, x = on_a_line(9)
    for token in (0, 1, 9):
        assert affected(module, x, token) == list(range(10))
