import pytest
import torch

from fvit.attention import FNet
from fvit.attention.zoo.fnet import _largest_factor
from fvit.cost import count
from fvit.models import FViT


def mixed(tokens, dim, textbook):
    """FNet's output and input gradient for random tokens, and the names of its operators."""
    module = FNet(dim, 1, dtype=torch.float64)
    module.set_layout((1, tokens - 1), 1)
    module.form = "textbook" if textbook else "auto"
    x = torch.randn(2, tokens, dim, dtype=torch.float64, generator=torch.Generator().manual_seed(0)).requires_grad_()
    out = module(x)
    return out.detach(), torch.autograd.grad((out * x.detach().flip(0)).sum(), x)[0]


@pytest.mark.parametrize(("tokens", "dim"), [(17, 8), (17, 7), (19, 1), (34, 6), (46, 5), (197, 12)])
def test_products_equal_the_transform(tokens, dim):
    for ours, theirs in zip(mixed(tokens, dim, False), mixed(tokens, dim, True), strict=True):
        assert not torch.equal(ours, theirs), "products round differently"
        torch.testing.assert_close(ours, theirs, rtol=1e-11, atol=1e-11)


@pytest.mark.parametrize("tokens", [1, 2, 16, 26, 196, 601])
def test_few_small_factors_and_many_tokens_are_transformed(tokens):
    for ours, theirs in zip(mixed(tokens, 4, False), mixed(tokens, 4, True), strict=True):
        assert torch.equal(ours, theirs)


def test_without_a_layout_or_with_another_number_of_tokens_it_is_a_transform():
    module, x = FNet(4, 1, dtype=torch.float64), torch.randn(1, 17, 4, dtype=torch.float64)
    expected = torch.fft.fft2(x).real
    assert torch.equal(module(x), expected)
    module.set_layout((1, 18), 1)
    assert torch.equal(module(x), expected)
    module.set_layout((1, 16), 1)
    assert not torch.equal(module(x), expected)
    module.set_layout((4, 4), 0)
    assert torch.equal(module(x), expected)


def test_macs_are_those_of_the_transform():
    model = FViT(img_size=32, patch_size=8, embed_dim=8, depth=1, num_heads=1, num_classes=2, attention="fnet")
    [block] = model.blocks
    assert "cos" in dict(block.attn.products.named_buffers()), "17 tokens"
    macs = count(model, 32).macs
    block.attn.form = "textbook"
    assert count(model, 32).macs == macs


def test_largest_factor():
    assert [_largest_factor(n) for n in (1, 2, 8, 12, 17, 26, 197, 577, 1025)] == [1, 2, 2, 3, 17, 13, 197, 577, 41]
