import pytest
import torch

from fvit.attention.zoo.gla import CHUNK, decaying_sums


def pair_by_pair(q, k, v, log_decay):
    """The quadratic form: every pair's product, times the decays between them."""
    total = log_decay.cumsum(dim=-2)
    later = torch.ones(q.shape[-2], q.shape[-2], dtype=torch.bool).triu(1).unsqueeze(-1)
    decay = (total.unsqueeze(-2) - total.unsqueeze(-3)).masked_fill(later, float("-inf")).exp()
    return torch.einsum("bhnd,bhnmd,bhmd->bhnm", q, decay, k) @ v


@pytest.mark.parametrize("tokens", [1, CHUNK, CHUNK + 1, 3 * CHUNK + 2])
@pytest.mark.parametrize("strength", [0.1, 10.0, 1000.0])
def test_the_chunked_scan_equals_the_quadratic_form(tokens, strength):
    """Also where nothing is left of a token after one step, which would overflow if decays were divided by."""
    torch.manual_seed(0)
    q, k, v, decay = (torch.randn(2, 3, tokens, width, dtype=torch.float64).requires_grad_() for width in (4, 4, 6, 4))
    upstream = torch.randn(2, 3, tokens, 6, dtype=torch.float64)
    results = []
    for function in (decaying_sums, pair_by_pair):
        out = function(q, k, v, -strength * decay.square())
        results.append([out.detach(), *torch.autograd.grad((out * upstream).sum(), (q, k, v, decay))])
    torch.testing.assert_close(*results)
