"""The bug museum: the comparison that the suite makes with the reference rejects each known fault."""

import importlib
import pkgutil

import pytest
import torch

from fvit.attention import Performer

from . import museum
from .museum import EXHIBITS
from .suite import assert_equals_reference, randomise

for entry in pkgutil.iter_modules(museum.__path__):
    importlib.import_module(f"{museum.__name__}.{entry.name}")


def kept(x):
    """A `keep` [B, N]."""
    pattern = torch.tensor([[1, 1, 0, 1, 0], [0, 1, 1, 1, 1]], dtype=torch.bool)
    return pattern.repeat(1, x.shape[1])[:, : x.shape[1]]


def exhibits(*shows):
    shown = [exhibit for exhibit in EXHIBITS if exhibit.shows in shows]
    return pytest.mark.parametrize("exhibit", shown, ids=lambda exhibit: exhibit.id)


def module_and_tokens(variant, options):
    torch.manual_seed(0)
    module = variant(24, 3, dtype=torch.float64, **options)
    (rows, columns), prefix, block_index = getattr(variant, "lies", ((1, 5), 0, 0))
    module.set_layout((rows, columns), prefix, block_index)
    return randomise(module, std=0.3), torch.randn(2, prefix + rows * columns, 24, dtype=torch.float64)


@pytest.mark.slow
@exhibits("output", "mask", "gradient")
def test_without_its_fault_it_passes(exhibit):
    """An exhibit is rejected for its fault and not for the way in which it is written."""
    right = exhibit.fault.__bases__[0]
    module, x = module_and_tokens(right, exhibit.options)
    assert_equals_reference(module, right.reference, x)
    assert_equals_reference(module, right.reference, x, kept(x))


@exhibits("output")
def test_a_wrong_output_is_rejected(exhibit):
    """Not by a hair: it is off by a hundredth of the largest element, 10⁸ times what is allowed."""
    module, x = module_and_tokens(exhibit.fault, exhibit.options)
    with pytest.raises(AssertionError, match=r"^out: "):
        assert_equals_reference(module, exhibit.fault.reference, x, tolerance=0.01)


@exhibits("mask")
def test_an_output_that_is_wrong_under_a_mask_is_rejected(exhibit):
    module, x = module_and_tokens(exhibit.fault, exhibit.options)
    assert_equals_reference(module, exhibit.fault.reference, x)
    with pytest.raises(AssertionError, match=r"^out: "):
        assert_equals_reference(module, exhibit.fault.reference, x, kept(x), tolerance=0.01)


@exhibits("gradient")
def test_a_wrong_gradient_of_a_right_output_is_rejected(exhibit):
    module, x = module_and_tokens(exhibit.fault, exhibit.options)
    with pytest.raises(AssertionError, match=r"^d x: "):
        assert_equals_reference(module, exhibit.fault.reference, x, tolerance=0.01)


def assert_orthogonal(features_hmd):
    """Within each block of d rows, no feature has a part in the direction of another."""
    for block in features_hmd.split(features_hmd.shape[2], dim=1):
        gram = block @ block.transpose(1, 2)
        assert (gram - torch.diag_embed(gram.diagonal(dim1=1, dim2=2))).abs().max() < 1e-10


def test_features_that_are_not_orthogonal_are_rejected():
    """No comparison of outputs sees this fault, since a reference takes the features as they are."""
    features = Performer(32, 4, num_features=20, dtype=torch.float64).features
    assert_orthogonal(features)
    with pytest.raises(AssertionError):
        assert_orthogonal(torch.randn(features.shape, dtype=torch.float64))
