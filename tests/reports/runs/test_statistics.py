import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from scipy import stats

from fvit.reports.runs.statistics import Estimate, estimate, front, paired


@pytest.mark.parametrize("n", [2, 3, 5, 30])
def test_intervals_are_students(n):
    values = np.random.default_rng(n).normal(0.9, 0.01, n)
    found = estimate(list(values))
    low, high = stats.t.interval(0.95, n - 1, values.mean(), stats.sem(values))
    assert found.n == n
    assert (found.mean - found.half, found.mean + found.half) == pytest.approx((low, high), rel=1e-12)


def test_by_hand():
    """Mean 2, standard deviation 1, t(2) = 4.3027: half = 4.3027 / sqrt(3)."""
    assert estimate([1.0, 2.0, 3.0]).half == pytest.approx(2.48414, abs=1e-5)


def test_one_value_tells_of_no_interval():
    assert estimate([0.5]) == Estimate(0.5, None, 1)
    assert estimate([]) is None


def test_differences_are_of_pairs():
    """Seeds vary by 10 points, the pairs' differences by 1: unpaired, the difference would drown."""
    ours, theirs = {0: 0.50, 1: 0.60, 2: 0.70, 7: 0.1}, {0: 0.48, 1: 0.59, 2: 0.67, 8: 0.9}
    found = paired(ours, theirs)
    differences = [ours[seed] - theirs[seed] for seed in (0, 1, 2)]
    test = stats.ttest_rel([ours[s] for s in (0, 1, 2)], [theirs[s] for s in (0, 1, 2)]).confidence_interval(0.95)
    assert (found.mean, found.n) == (pytest.approx(np.mean(differences)), 3)
    assert (found.mean - found.half, found.mean + found.half) == pytest.approx((test.low, test.high))
    assert paired({0: 1.0}, {1: 1.0}) is None
    assert paired({0: 0.5}, {0: 0.25}) == Estimate(0.25, None, 1)


def test_the_front():
    points = [(3, 0.9), (1, 0.5), (2, 0.4), (2, 0.7), (3, 0.8), (4, 0.9)]
    assert front(points) == [1, 3, 0]
    assert front([]) == []
    assert front([(1, 1.0), (1, 1.0)]) == [0, 1], "equals do not beat each other"


@given(st.lists(st.tuples(st.integers(0, 6), st.integers(0, 6)), max_size=12))
def test_the_front_is_what_nobody_beats(points):
    def beaten(one):
        return any(o != one and o[0] <= one[0] and o[1] >= one[1] for o in points)

    assert sorted(front(points)) == [i for i, one in enumerate(points) if not beaten(one)]
