"""Token sensitivities of functions whose Jacobian is known."""

import pytest
import torch

from fvit.attention import get
from fvit.attention.saliency import sensitivity


def draw(*shape, seed=0):
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


@pytest.mark.parametrize("width", [1, 5, 40])
def test_of_a_linear_map_it_is_the_map(width):
    """out = Σ_n w_n A x_n has the Jacobian w_n A at token n."""
    share, matrix, x = draw(7), draw(3, width, seed=1), draw(2, 7, 3, seed=2)
    found = sensitivity(lambda tokens: torch.einsum("n,bnc,cm->bm", share, tokens, matrix), x)
    expected = share.abs() * torch.linalg.matrix_norm(matrix)
    torch.testing.assert_close(found, expected.expand(2, 7))


def test_images_are_independent():
    """out = x_0 ⊙ x_2 has the Jacobian diag(x_2) at token 0 and diag(x_0) at token 2."""
    x = draw(3, 4, 6)
    found = sensitivity(lambda tokens: tokens[:, 0] * tokens[:, 2], x)
    lengths = x.norm(dim=-1)
    torch.testing.assert_close(found[:, 0], lengths[:, 2])
    torch.testing.assert_close(found[:, 2], lengths[:, 0])
    assert not found[:, [1, 3]].any()


def test_wide_outputs_are_estimated_within_ten_per_cent():
    x, mechanism = draw(1, 9, 192), get("linear")(192, 3, dtype=torch.float64).eval()
    exact = torch.autograd.functional.jacobian(lambda tokens: mechanism(tokens)[:, 0], x)[0, :, 0].norm(dim=(0, 2))
    whole = sensitivity(lambda tokens: mechanism(tokens)[:, 0], x, directions=192)[0]
    torch.testing.assert_close(whole, exact)
    estimated = sensitivity(lambda tokens: mechanism(tokens)[:, 0], x)[0]
    assert 0 < (estimated / exact - 1).abs().max() < 0.1
    assert torch.equal(estimated, sensitivity(lambda tokens: mechanism(tokens)[:, 0], x)[0])


def test_softmax_attention_with_equal_keys_is_equally_sensitive_to_all_tokens():
    """With keys of 0 the map is 1/N, and the Jacobian W_o W_v / N at every token."""
    mechanism = get("softmax")(8, 2, dtype=torch.float64).eval()
    with torch.no_grad():
        mechanism.qkv.weight[8:16] = 0
    found = sensitivity(lambda tokens: mechanism(tokens)[:, 0], draw(1, 5, 8))
    expected = torch.linalg.matrix_norm(mechanism.proj.weight @ mechanism.qkv.weight[16:]) / 5
    torch.testing.assert_close(found, expected.detach().expand(1, 5))


@pytest.mark.parametrize("name", ["additive", "fnet", "gfnet", "mixer", "softmax", "window"])
def test_it_works_for_every_kind_of_mechanism(name):
    mechanism = get(name)(12, 2, dtype=torch.float64).eval()
    prefix = int(mechanism.takes_prefix)
    mechanism.set_layout((3, 4), prefix)
    found = sensitivity(lambda tokens: mechanism(tokens)[:, prefix:].mean(dim=1), draw(2, 12 + prefix, 12))
    assert found.shape == (2, 12 + prefix)
    assert found.isfinite().all()
    assert (found[:, prefix:] > 0).any()
