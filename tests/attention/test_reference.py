"""Every mechanism equals a reference written from its paper: values and gradients, in float64."""

import random

import pytest
import torch

from fvit.attention import get, names

from .cases import CASES
from .suite import assert_equals_reference, build, every_case, full_first, tokens_of


def test_every_registered_mechanism_has_a_case():
    assert {case.key for case in CASES} >= {name for name in names() if get(name).__module__.startswith("fvit.")}
    assert len({case.id for case in CASES}) == len(CASES)


@every_case
def test_equals_its_reference(case):
    """With random shapes, a prefix token, and a mask."""
    assert_on_random_shapes(case, [(1, bool(case.masks))])


@pytest.mark.slow
@full_first(pytest.mark.exhaustive, cases=CASES)
def test_equals_its_reference_without_and_with_five_prefix_tokens(case):
    assert_on_random_shapes(case, [(0, False), (5, False)])


def assert_on_random_shapes(case, shapes):
    """For numbers of prefix tokens, each with a mask or without."""
    for count, masked in shapes:
        prefix = count * get(case.key).takes_prefix
        draw = random.Random(f"{case.id} {prefix} {masked}")
        heads = draw.randint(1, 3)
        width, grid = heads * draw.choice([4, 8]), draw.choice(case.grids)
        module = build(case, seed=draw.getrandbits(32), width=width, heads=heads, grid=grid, prefix=prefix)
        x = tokens_of(module, batch=2, seed=draw.getrandbits(32))
        keep = torch.rand(x.shape[:2]) < 0.6 if masked else None
        if masked:
            keep[:, draw.randrange(x.shape[1])] = True
        assert_equals_reference(module, case.reference, x, keep)
