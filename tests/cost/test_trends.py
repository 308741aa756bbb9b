import math

import pytest

from fvit.cost.measure import Candidate, Row
from fvit.cost.subject import Conditions
from fvit.cost.timing import Timing
from fvit.cost.trends import trends

SIZES = {224: 197, 384: 577, 512: 1025, 1024: 4097}


def row(attention, res, seconds, tokens=-1, model="vit", **values):
    """A row whose latency is `seconds`, and its training step three times as long; both vary by 1 %."""
    found = Row(
        Candidate(model, attention, Conditions(res), lambda: None), tokens=SIZES[res] if tokens == -1 else tokens
    )
    for name, factor in (("latency_ms", 1), ("train_ms", 3)):
        found.time(name, Timing(tuple(factor * seconds * (1 + 0.01 * (i - 3)) for i in range(7))))
    found.values |= values
    return found


def law(attention, cost, **options):
    return [row(attention, res, cost(n), **options, saved_mib=n / 10) for res, n in SIZES.items()]


def test_exponents_and_crossovers_are_those_of_the_laws():
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


def test_the_end_is_told_apart_where_a_constant_part_weighs_on_the_beginning():
    [trend] = trends(law("softmax", lambda n: 0.1 + n**2 * 1e-6), "softmax")
    assert trend.forward.value < trend.forward_end.value - 0.2
    assert trend.forward_end.value == pytest.approx(math.log(16.886 / 1.151) / math.log(4097 / 1025), abs=1e-3)
    assert trend.training_end.value == pytest.approx(trend.forward_end.value)


def test_one_that_leads_or_lags_at_every_size_is_told():
    rows = law("softmax", lambda n: n) + law("fast", lambda n: n / 2) + law("slow", lambda n: 2 * n)
    _, fast, slow = trends(rows, "softmax")
    assert (fast.overtakes.value, slow.overtakes.value) == (0, math.inf)


def test_only_the_same_model_in_the_same_manner_is_compared():
    rows = law("softmax", lambda n: n**2) + law("linear", lambda n: 700 * n, model="other")
    assert [trend.overtakes for trend in trends(rows, "softmax")] == [None, None]


def test_another_baseline():
    rows = law("softmax", lambda n: n**2) + law("linear", lambda n: 700 * n)
    softmax, linear = trends(rows, "linear")
    assert linear.overtakes is None
    assert softmax.overtakes.value == math.inf


def test_one_size_makes_no_trend():
    assert trends([row("softmax", 224, 1.0)], "softmax") == []


def test_a_model_without_tokens_grows_with_the_pixels():
    def grown(attention, cost):
        return [row(attention, res, cost(res**2), tokens=None, saved_mib=res**2 / 10) for res in SIZES]

    native, linear = trends(grown("native", lambda n: n**2 * 1e-9) + grown("linear", lambda n: n * 3e-4), "native")
    assert native.unit == linear.unit == "pixels"
    assert native.sizes == tuple(res**2 for res in SIZES)
    for trend, power in ((native, 2), (linear, 1)):
        assert (trend.forward.value, trend.saved.value) == (pytest.approx(power), pytest.approx(1))
    assert linear.overtakes.value == pytest.approx(300_000)


def test_peaks_grow_too_and_those_within_a_mib_are_none():
    rows = [row("softmax", res, 1.0, peak_mib=n / 512, train_peak_mib=n**2 / 100) for res, n in SIZES.items()]
    [trend] = trends(rows, "softmax")
    assert (trend.training_peak.value, trend.training_peak.interval) == (pytest.approx(2), None)
    assert trend.peak.value == pytest.approx(1), "197 tokens take less than a MiB, and are left out"
    [trend] = trends([row("softmax", res, 1.0, peak_mib=0.0) for res in SIZES], "softmax")
    assert trend.peak is None


def test_what_was_counted_alone_makes_no_trend():
    rows = [Row(Candidate("vit", "softmax", Conditions(res), lambda: None), tokens=n) for res, n in SIZES.items()]
    assert trends(rows, "softmax") == []


def test_sizes_at_which_one_failed_are_left_out():
    rows = law("softmax", lambda n: n**2) + law("linear", lambda n: 700 * n)
    largest = rows[3]
    largest.status = "out of memory"
    largest.runs.clear()
    softmax, linear = trends(rows, "softmax")
    assert softmax.forward.value == pytest.approx(2)
    assert linear.overtakes.value == pytest.approx(700)
