"""Exponents and crossovers, of synthetic rows with known laws."""

import math
import random

import pytest

from fvit.cost.measure import Candidate, Row
from fvit.cost.timing import Timing
from fvit.cost.trends import crossover, exponent, trends
from fvit.cost.workload import Conditions

SIZES = {224: 197, 384: 577, 512: 1025, 1024: 4097}


def row(attention, res, seconds, tokens=-1, model="vit", **values):
    """A row with a latency of `seconds` and a training step three times as long; both vary by 1 %."""
    found = Row(
        Candidate(model, attention, Conditions(res), lambda: None), tokens=SIZES[res] if tokens == -1 else tokens
    )
    for name, factor in (("latency_ms", 1), ("train_ms", 3)):
        found.time(name, Timing(tuple(factor * seconds * (1 + 0.01 * (i - 3)) for i in range(7))))
    found.values |= values
    return found


def law(attention, cost, **options):
    return [row(attention, res, cost(n), **options, saved_mib=n / 10) for res, n in SIZES.items()]


def test_exponents_and_crossovers_of_rows():
    rows = law("softmax", lambda n: n**2 * 1e-6) + law("linear", lambda n: 700 * n * 1e-6)
    softmax, linear = trends(rows, "softmax")
    assert softmax.name == "vit softmax"
    assert softmax.sizes == linear.sizes == tuple(SIZES.values())
    assert softmax.unit == linear.unit == "tokens"
    for trend, power in ((softmax, 2), (linear, 1)):
        assert trend.forward.value == pytest.approx(power)
        assert trend.training.value == pytest.approx(power)
        assert trend.forward.interval[0] < power < trend.forward.interval[1]
        assert (trend.saved.value, trend.saved.interval) == (pytest.approx(1), None)
    assert softmax.overtakes is softmax.overtakes_in_training is None
    # Interpolated in logarithms, which is exact for powers.
    assert linear.overtakes.value == pytest.approx(700)
    assert linear.overtakes_in_training.value == pytest.approx(700)


def test_exponent_between_the_largest_sizes_excludes_constant_costs():
    [trend] = trends(law("softmax", lambda n: 0.1 + n**2 * 1e-6), "softmax")
    assert trend.forward.value < trend.forward_end.value - 0.2
    assert trend.forward_end.value == pytest.approx(math.log(16.886 / 1.151) / math.log(4097 / 1025), abs=1e-3)
    assert trend.training_end.value == pytest.approx(trend.forward_end.value)


def test_crossover_is_zero_or_infinite_without_a_change_of_order():
    rows = law("softmax", lambda n: n) + law("fast", lambda n: n / 2) + law("slow", lambda n: 2 * n)
    _, fast, slow = trends(rows, "softmax")
    assert (fast.overtakes.value, slow.overtakes.value) == (0, math.inf)


def test_only_the_same_model_under_the_same_conditions_is_compared():
    rows = law("softmax", lambda n: n**2) + law("linear", lambda n: 700 * n, model="other")
    assert [trend.overtakes for trend in trends(rows, "softmax")] == [None, None]


def test_another_baseline():
    rows = law("softmax", lambda n: n**2) + law("linear", lambda n: 700 * n)
    softmax, linear = trends(rows, "linear")
    assert linear.overtakes is None
    assert softmax.overtakes.value == math.inf


def test_one_size_has_no_trend():
    assert trends([row("softmax", 224, 1.0)], "softmax") == []


def test_models_without_a_number_of_tokens_are_compared_by_pixels():
    def grown(attention, cost):
        return [row(attention, res, cost(res**2), tokens=None, saved_mib=res**2 / 10) for res in SIZES]

    native, linear = trends(grown("native", lambda n: n**2 * 1e-9) + grown("linear", lambda n: n * 3e-4), "native")
    assert native.unit == linear.unit == "pixels"
    assert native.sizes == tuple(res**2 for res in SIZES)
    for trend, power in ((native, 2), (linear, 1)):
        assert (trend.forward.value, trend.saved.value) == (pytest.approx(power), pytest.approx(1))
    assert linear.overtakes.value == pytest.approx(300_000)


def test_peaks_below_a_mebibyte_are_left_out():
    rows = [row("softmax", res, 1.0, peak_mib=n / 512, train_peak_mib=n**2 / 100) for res, n in SIZES.items()]
    [trend] = trends(rows, "softmax")
    assert (trend.training_peak.value, trend.training_peak.interval) == (pytest.approx(2), None)
    assert trend.peak.value == pytest.approx(1), "197 tokens take less than a MiB"
    [trend] = trends([row("softmax", res, 1.0, peak_mib=0.0) for res in SIZES], "softmax")
    assert trend.peak is None


def test_rows_without_measurements_have_no_trend():
    rows = [Row(Candidate("vit", "softmax", Conditions(res), lambda: None), tokens=n) for res, n in SIZES.items()]
    assert trends(rows, "softmax") == []


def test_sizes_at_which_a_candidate_failed_are_left_out():
    rows = law("softmax", lambda n: n**2) + law("linear", lambda n: 700 * n)
    largest = rows[3]
    largest.status = "out of memory"
    largest.runs.clear()
    softmax, linear = trends(rows, "softmax")
    assert softmax.forward.value == pytest.approx(2)
    assert linear.overtakes.value == pytest.approx(700)


# Exponents and crossovers of samples

TOKENS = (197, 577, 1025, 2305, 4097)


def noisy(cost, runs=15, noise=0.05, seed=0):
    draw = random.Random(seed)
    return {n: [cost(n) * math.exp(draw.gauss(0, noise)) for _ in range(runs)] for n in TOKENS}


@pytest.mark.parametrize("power", [0.5, 1, 2])
def test_exponent_of_a_power_law(power):
    exact = exponent({n: [3e-6 * n**power] for n in TOKENS})
    assert exact.value == pytest.approx(power)
    assert exact.interval is None, "one run has no interval"
    found = exponent(noisy(lambda n: 3e-6 * n**power))
    assert found.interval[0] < power < found.interval[1]
    assert found.interval[1] - found.interval[0] < 0.1


@pytest.mark.parametrize(("fewest", "has_interval"), [(1, False), (5, False), (6, True)])
def test_interval_needs_enough_runs_of_every_size(fewest, has_interval):
    mine = noisy(lambda n: n)
    mine[TOKENS[-1]] = mine[TOKENS[-1]][:fewest]
    theirs = noisy(lambda n: n**2 / 1000, seed=1)
    for found in (exponent(mine), crossover(mine, theirs), crossover(theirs, mine)):
        assert (found.interval is not None) == has_interval


def test_single_size_has_no_exponent():
    assert exponent({197: [1.0, 2.0]}) is None


def test_crossover_of_two_power_laws():
    linear, square = (lambda n: 1000.0 * n), (lambda n: float(n) ** 2)
    found = crossover(noisy(linear), noisy(square, seed=1))
    assert found.value == pytest.approx(1000, rel=0.05)
    assert found.interval[0] < 1000 < found.interval[1]
    exact = crossover({n: [linear(n)] for n in TOKENS}, {n: [square(n)] for n in TOKENS})
    assert exact.value == pytest.approx(1000)


def test_interval_is_open_if_the_largest_size_is_undecided():
    """Ours wins at the largest size by less than the noise, so it may overtake only beyond it."""
    mine = {100: [3.0] * 9, 200: [0.97, 0.98, 0.99, 0.99, 0.99, 1.03, 1.04, 1.04, 1.05]}
    found = crossover(mine, {100: [2.0] * 9, 200: [1.0] * 9})
    assert 100 < found.value < 200
    assert found.interval[1] == math.inf


def test_last_change_of_order_counts():
    mine = {100: [1], 200: [3], 400: [1], 800: [3], 1600: [1]}
    other = {n: [2] for n in mine}
    assert 800 < crossover(mine, other).value < 1600


def test_only_common_sizes_are_compared():
    assert crossover({100: [3], 200: [1]}, {200: [2], 400: [2]}) is None
