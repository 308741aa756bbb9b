import torch

from fvit.attention import MLLA, LinearAttention

from ..suite import randomise


def test_without_rotation_it_is_linear_attention():
    torch.manual_seed(0)
    module, linear = randomise(MLLA(16, 4, dtype=torch.float64)), LinearAttention(16, 4, dtype=torch.float64)
    linear.load_state_dict(module.state_dict())
    x = torch.randn(2, 6, 16, dtype=torch.float64)
    module.set_layout((1, 1), 5)
    torch.testing.assert_close(module(x), linear(x))
    module.set_layout((1, 2), 4)
    assert not torch.allclose(module(x), linear(x))


def test_only_relative_positions_of_patches_matter():
    """Without prefix tokens, translating all patches, here by one hidden row, changes nothing."""
    torch.manual_seed(0)
    module = randomise(MLLA(16, 4, dtype=torch.float64))
    x = torch.randn(1, 6, 16, dtype=torch.float64)
    module.set_layout((2, 3), 0)
    expected = module(x)
    module.set_layout((3, 3), 0)
    keep = (torch.arange(9) >= 3)[None, None, None]
    moved = module(torch.cat([torch.zeros(1, 3, 16, dtype=torch.float64), x], dim=1), attn_mask=keep)[:, 3:]
    torch.testing.assert_close(moved, expected)
