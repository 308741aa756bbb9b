"""Pooling by few queries: what is written by hand on the way back is what autograd would find."""

import pytest
import torch

from fvit.attention.attend import attend

HIDING = torch.tensor([[[0.0, 0, -torch.inf, 0, -1]], [[0, -torch.inf, 0.5, 0, 0]]], dtype=torch.float64)


def drawn(*shape, requires_grad=True):
    generator = torch.Generator().manual_seed(sum(shape))
    return torch.randn(shape, generator=generator, dtype=torch.float64).requires_grad_(requires_grad)


@pytest.fixture(params=[(3, 4), (2, 3, 4)], ids=["shared rows", "rows an image"])
def rows(request):
    return drawn(*request.param)


every_bias = pytest.mark.parametrize("bias", [None, HIDING], ids=["no bias", "bias"])


def by_autograd(rows, x, bias):
    logits = torch.einsum("bhc,bnc->bhn", rows.expand(len(x), -1, -1), x) * 0.5
    weights = (logits if bias is None else logits + bias).softmax(dim=-1)
    return torch.einsum("bhn,bnc->bhc", weights, x), weights


@every_bias
def test_values_and_gradients_are_those_of_autograd(rows, bias):
    x, grad = drawn(2, 5, 4), drawn(2, 3, 4, requires_grad=False)
    ours, theirs = attend(rows, x, bias, 0.5), (*by_autograd(rows, x, bias), x)
    for mine, other in zip(ours, theirs, strict=True):
        torch.testing.assert_close(mine, other, rtol=1e-13, atol=1e-13)
    matrix = drawn(4, 4, requires_grad=False)
    for with_pooled, with_tokens in ((1, 0), (1, 1), (0, 1)):
        found, expected = (
            torch.autograd.grad(
                [pooled, tokens @ matrix][1 - with_pooled : 1 + with_tokens],
                (rows, x),
                [grad, drawn(2, 5, 4, requires_grad=False)][1 - with_pooled : 1 + with_tokens],
                retain_graph=True,
                allow_unused=True,
            )
            for pooled, _, tokens in (ours, theirs)
        )
        for mine, other in zip(found, expected, strict=True):
            torch.testing.assert_close(mine, other, rtol=1e-13, atol=1e-13)


def test_the_gradient_of_what_reads_the_tokens_next_is_written_into(rows):
    """Which is what saves time."""
    x, handed = drawn(2, 5, 4), []
    pooled, _, tokens = attend(rows, x, None, 0.5)
    tokens.register_hook(handed.append)
    [grad_x] = torch.autograd.grad(pooled.sum() + (tokens @ drawn(4, 4)).sum(), x)
    assert grad_x.data_ptr() == handed[0].data_ptr()


@every_bias
def test_second_derivatives(rows, bias):
    assert torch.autograd.gradgradcheck(lambda r, x: attend(r, x, bias, 0.5)[::2], (rows, drawn(2, 5, 4)))


def test_a_bias_that_learns_gets_its_gradient():
    x, bias = drawn(2, 5, 4), drawn(2, 1, 5)
    assert torch.autograd.gradcheck(lambda b: attend(drawn(3, 4), x, b, 0.5)[0], (bias,))


def test_function_transforms_see_through_it(rows):
    x, fixed = drawn(2, 5, 4, requires_grad=False), rows.detach()
    ours = torch.func.jacrev(lambda t: attend(fixed, t, None, 0.5)[0])(x)
    theirs = torch.func.jacrev(lambda t: by_autograd(fixed, t, None)[0])(x)
    torch.testing.assert_close(ours, theirs)


def test_dropout_drops_weights():
    torch.manual_seed(0)
    pooled, weights, _ = attend(drawn(3, 4), drawn(2, 50, 4), None, 0.5, dropout=0.5)
    assert 0.2 < (weights == 0).double().mean() < 0.8
    torch.testing.assert_close(pooled, weights @ drawn(2, 50, 4))
