"""Every mechanism equals its reference, which was written from the paper: values and gradients, in float64."""

import random

import pytest
import torch

from fvit.attention import get, names

from .cases import CASES
from .suite import assert_equals_reference, build, cases_where, every_case, tokens_of


def random_module(case, prefix, seed):
    """A module of random shape, and the generator that goes on drawing."""
    if prefix and not get(case.key).takes_prefix:
        pytest.skip("takes no prefix tokens")
    draw = random.Random(f"{case.id} {prefix} {seed}")
    heads = draw.randint(1, 3)
    width = heads * draw.choice([4, 8])
    module = build(
        case, seed=draw.getrandbits(32), width=width, heads=heads, grid=draw.choice(case.grids), prefix=prefix
    )
    return module, draw


def test_every_registered_mechanism_is_in_the_table():
    assert {case.key for case in CASES} >= {name for name in names() if get(name).__module__.startswith("fvit.")}


def test_every_line_of_the_table_has_an_id_of_its_own():
    assert len({case.id for case in CASES}) == len(CASES)


@pytest.mark.parametrize("seed", range(2))
@pytest.mark.parametrize("prefix", [0, 1, 5])
@every_case
def test_equals_its_reference(case, prefix, seed):
    module, draw = random_module(case, prefix, seed)
    assert_equals_reference(module, case.reference, tokens_of(module, draw.randint(1, 3), draw.getrandbits(32)))


@pytest.mark.parametrize("prefix", [0, 1, 5])
@cases_where(lambda case: case.masks)
def test_equals_its_reference_under_a_mask(case, prefix):
    module, draw = random_module(case, prefix, seed=0)
    x = tokens_of(module, draw.randint(1, 3), draw.getrandbits(32))
    keep = torch.rand(x.shape[:2]) < 0.6
    keep[:, draw.randrange(x.shape[1])] = True
    assert_equals_reference(module, case.reference, x, keep)


@every_case
def test_gradcheck(case):
    module = build(case)
    parameters = dict(module.named_parameters())

    def run(x, *weights):
        return torch.func.functional_call(module, dict(zip(parameters, weights, strict=True)), (x,))

    x = tokens_of(module, batch=1).requires_grad_()
    assert torch.autograd.gradcheck(run, (x, *parameters.values()), fast_mode=True)
