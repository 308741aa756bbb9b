import torch

from fvit.attention import MHLA, ReLULinearAttention

from ..suite import randomise, tokens_of


def test_equal_coefficients_give_linear_attention():
    """With prefix tokens and blocks that do not divide the grid, too."""
    linear = randomise(ReLULinearAttention(8, 2, dtype=torch.float64))
    for blocks in (1, 4, 9):
        module = MHLA(8, 2, num_blocks=blocks, dtype=torch.float64)
        module.load_state_dict({**linear.state_dict(), "mixing": torch.full((blocks, blocks), 1 / blocks)})
        module.set_layout((3, 5), 2)
        x = tokens_of(module)
        torch.testing.assert_close(module(x), linear(x))


def test_the_coefficients_start_by_distance():
    mixing = MHLA(8, 2, num_blocks=4).mixing
    near = 1 - 0.5**0.5
    torch.testing.assert_close(mixing[0], torch.tensor([1.0, near, near, 0.0]) / (1 + 2 * near))
    torch.testing.assert_close(mixing.sum(dim=0), torch.ones(4))


def test_coefficients_outside_0_and_1_are_clipped_and_learned():
    module = MHLA(8, 2, num_blocks=4, dtype=torch.float64)
    module.set_layout((2, 2), 0)
    x = tokens_of(module)
    results = []
    for low, high in ((-1.0, 3.0), (0.0, 1.0)):
        with torch.no_grad():
            module.mixing[0] = torch.tensor([high, low, 0.5, 0.5])
        module.zero_grad()
        module(x).square().sum().backward()
        results.append((module(x).detach(), module.mixing.grad))
    torch.testing.assert_close(*results)
    assert results[0][1][0, :2].abs().min() > 0
