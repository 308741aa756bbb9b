import torch

from fvit.attention import MALA


def test_scores_sum_to_one_without_add_ons():
    """With equal values, each output is that value."""
    module = MALA(8, 2, qkv_bias=True, dtype=torch.float64)
    with torch.no_grad():
        module.qkv.weight[16:] = 0
        module.qkv.bias[16:] = torch.arange(8.0)
        module.proj.weight.copy_(torch.eye(8))
        module.proj.bias.zero_()
    out = module(torch.randn(1, 5, 8, dtype=torch.float64))
    torch.testing.assert_close(out, torch.arange(8.0, dtype=torch.float64).expand(1, 5, 8))
