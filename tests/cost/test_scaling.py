import math
import random

import pytest

from fvit.cost.scaling import crossover, exponent

SIZES = (197, 577, 1025, 2305, 4097)


def noisy(cost, runs=15, noise=0.05, seed=0):
    draw = random.Random(seed)
    return {n: [cost(n) * math.exp(draw.gauss(0, noise)) for _ in range(runs)] for n in SIZES}


@pytest.mark.parametrize("power", [0.5, 1, 2])
def test_the_exponent_of_a_power_law_is_found(power):
    exact = exponent({n: [3e-6 * n**power] for n in SIZES})
    assert exact.value == pytest.approx(power)
    assert exact.interval is None, "one run has no interval"
    found = exponent(noisy(lambda n: 3e-6 * n**power))
    assert found.interval[0] < power < found.interval[1]
    assert found.interval[1] - found.interval[0] < 0.1


@pytest.mark.parametrize(("fewest", "told"), [(1, False), (3, False), (5, False), (6, True)])
def test_an_interval_takes_enough_runs_of_every_size(fewest, told):
    """Three runs that fell close together would have one that is too narrow."""
    mine = noisy(lambda n: n)
    mine[SIZES[-1]] = mine[SIZES[-1]][:fewest]
    theirs = noisy(lambda n: n**2 / 1000, seed=1)
    for found in (exponent(mine), crossover(mine, theirs), crossover(theirs, mine)):
        assert (found.interval is not None) == told


def test_one_size_has_no_exponent():
    assert exponent({197: [1.0, 2.0]}) is None


def test_the_crossover_of_two_laws_is_found():
    linear, square = (lambda n: 1000.0 * n), (lambda n: float(n) ** 2)
    found = crossover(noisy(linear), noisy(square, seed=1))
    assert found.value == pytest.approx(1000, rel=0.05)
    assert found.interval[0] < 1000 < found.interval[1]
    exact = crossover({n: [linear(n)] for n in SIZES}, {n: [square(n)] for n in SIZES})
    assert exact.value == pytest.approx(1000)


def test_an_order_that_never_changes_is_told_from_one_that_is_not_there():
    square, twice = {n: [n**2] for n in SIZES}, {n: [2 * n**2] for n in SIZES}
    assert crossover(square, twice).value == 0
    assert crossover(twice, square).value == math.inf


def test_a_close_call_at_the_largest_size_has_an_open_interval():
    """Ours wins at the last size by less than the noise: it may as well overtake beyond."""
    mine = {100: [3.0] * 9, 200: [0.97, 0.98, 0.99, 0.99, 0.99, 1.03, 1.04, 1.04, 1.05]}
    found = crossover(mine, {100: [2.0] * 9, 200: [1.0] * 9})
    assert 100 < found.value < 200
    assert found.interval[1] == math.inf


def test_it_is_the_last_change_that_counts():
    mine = {100: [1], 200: [3], 400: [1], 800: [3], 1600: [1]}
    other = {n: [2] for n in mine}
    assert 800 < crossover(mine, other).value < 1600


def test_only_sizes_that_both_have_are_compared():
    assert crossover({100: [3], 200: [1]}, {200: [2], 400: [2]}) is None
