"""What may depend on what: tokens on their order, images on each other."""

import torch

from .suite import build, every_case, tokens_of


@every_case
def test_keeps_the_shape(case):
    module = build(case)
    x = tokens_of(module)
    assert module(x).shape == x.shape


@every_case
def test_is_permutation_equivariant_or_is_not(case):
    module = build(case)
    x = tokens_of(module)
    order = torch.randperm(x.shape[1], generator=torch.Generator().manual_seed(0))
    permuted, expected = module(x[:, order]), module(x)[:, order]
    if case.equivariant:
        torch.testing.assert_close(permuted, expected, rtol=1e-10, atol=1e-10)
    else:
        assert (permuted - expected).abs().max() > 1e-3 * expected.abs().max()


@every_case
def test_images_of_a_batch_are_independent(case):
    module = build(case)
    x = tokens_of(module, batch=3)
    torch.testing.assert_close(module(x)[1:2], module(x[1:2]), rtol=1e-10, atol=1e-10)
    others = x.clone()
    others[[0, 2]] = tokens_of(module, batch=2, seed=2)
    torch.testing.assert_close(module(others)[1], module(x)[1], rtol=1e-10, atol=1e-10)
