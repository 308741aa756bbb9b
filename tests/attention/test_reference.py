"""Every mechanism equals a reference written from its paper: values and gradients, in float64."""

import random

import pytest
import torch

from fvit.attention import get, names

from .cases import CASES, FULL
from .suite import assert_equals_reference, build, every_case, over, tokens_of

OTHER_PREFIXES = (0, 5)


def test_every_registered_mechanism_has_a_case():
    assert {case.key for case in CASES} >= {name for name in names() if get(name).__module__.startswith("fvit.")}
    assert len({case.id for case in CASES}) == len(CASES)


@every_case
def test_equals_its_reference(case):
    """With random shapes: with a prefix token, under a mask, and with all options also with none and with five."""
    assert_on_random_shapes(case, OTHER_PREFIXES if case in FULL else ())


@pytest.mark.slow
@over(CASES, lambda case: case not in FULL)
def test_equals_its_reference_with_other_prefixes(case):
    assert_on_random_shapes(case, OTHER_PREFIXES)


def assert_on_random_shapes(case, prefixes):
    takes_prefix = get(case.key).takes_prefix
    shapes = [(int(takes_prefix), bool(case.masks)), *((count * takes_prefix, False) for count in prefixes)]
    for prefix, masked in shapes:
        draw = random.Random(f"{case.id} {prefix} {masked}")
        heads = draw.randint(1, 3)
        width, grid = heads * draw.choice([4, 8]), draw.choice(case.grids)
        module = build(case, seed=draw.getrandbits(32), width=width, heads=heads, grid=grid, prefix=prefix)
        x = tokens_of(module, batch=2, seed=draw.getrandbits(32))
        keep = torch.rand(x.shape[:2]) < 0.6 if masked else None
        if masked:
            keep[:, draw.randrange(x.shape[1])] = True
        assert_equals_reference(module, case.reference, x, keep)
