"""The curve against loops over images and thresholds."""

import math
import random
from dataclasses import replace
from fractions import Fraction

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from fvit.tinysaver.cascade import ALL_IMAGES, Cascade

TINY, LARGE = 3, 100


def cascade(confidence, tiny_right, large_right, tiny=TINY, large=LARGE):
    return Cascade(
        torch.tensor(confidence, dtype=torch.float64), torch.tensor(tiny_right), torch.tensor(large_right), tiny, large
    )


def drawn(seed, images=200, levels=None):
    """A calibrated tiny model, and a large one that is right nine times out of ten."""
    rng = random.Random(seed)
    confidence = [rng.uniform(0.1, 1) if levels is None else rng.randint(1, levels) / levels for _ in range(images)]
    tiny_right = [rng.random() < c for c in confidence]
    return cascade(confidence, tiny_right, [rng.random() < 0.9 for _ in confidence])


def run_by_hand(pair, threshold):
    """(images passed on, correct predictions, total MACs), image by image."""
    passed_on = right = macs = 0
    sides = zip(pair.confidence.tolist(), pair.tiny_right.tolist(), pair.large_right.tolist(), strict=True)
    for confidence, tiny_right, large_right in sides:
        macs += pair.tiny_macs
        if confidence < threshold:
            passed_on += 1
            macs += pair.large_macs
            right += large_right
        else:
            right += tiny_right
    return passed_on, right, macs


def distinct_thresholds(pair):
    return [0.0, *sorted(set(pair.confidence.tolist()))[1:], math.inf]


def cheapest_by_hand(pair, enough):
    """(total MACs, threshold) of the cheapest threshold with `enough` correct predictions."""
    runs = [(run_by_hand(pair, threshold), threshold) for threshold in distinct_thresholds(pair)]
    return min((macs, threshold) for (_, right, macs), threshold in runs if right >= enough)


@pytest.mark.parametrize("levels", [None, 50, 2, 1])
@pytest.mark.parametrize("seed", range(2))
def test_curve_equals_a_loop_over_thresholds(seed, levels):
    pair = drawn(seed, levels=levels)
    wanted = [run_by_hand(pair, threshold) for threshold in distinct_thresholds(pair)]
    assert [(point.passed_on, point.right) for point in pair.curve] == [run[:2] for run in wanted]
    for point, (passed_on, right, macs) in zip(pair.curve, wanted, strict=True):
        assert point.macs == float(Fraction(macs, pair.images))
        assert point.acc1 == float(Fraction(right, pair.images))
        assert point.share == float(Fraction(passed_on, pair.images))


@settings(max_examples=60, deadline=None)
@given(
    st.lists(st.tuples(st.sampled_from([0.1, 0.3, 0.5, 0.9, 1.0]), st.booleans(), st.booleans()), min_size=2),
    st.integers(0, 120),
)
def test_named_points_equal_a_loop_over_thresholds(rows, tiny_macs):
    pair = cascade(*zip(*rows, strict=True), tiny=tiny_macs)
    large_right = sum(right for *_, right in rows)
    saver = pair.as_accurate()
    macs, threshold = cheapest_by_hand(pair, large_right)
    assert saver.macs == float(Fraction(macs, len(rows)))
    assert run_by_hand(pair, saver.threshold) == run_by_hand(pair, threshold)
    most = max(run_by_hand(pair, threshold)[1] for threshold in distinct_thresholds(pair))
    assert pair.best().right == most
    assert pair.best().macs == float(Fraction(cheapest_by_hand(pair, most)[0], len(rows)))


def test_curve_starts_with_the_tiny_model_and_ends_with_the_large_one():
    pair = drawn(0)
    first, last = pair.curve[0], pair.curve[-1]
    assert first == pair.tiny
    assert (first.threshold, first.passed_on, first.macs) == (0.0, 0, TINY)
    assert first.right == int(pair.tiny_right.sum())
    assert (last.threshold, last.passed_on, last.macs) == (ALL_IMAGES, pair.images, TINY + LARGE)
    assert last.right == pair.large.right == int(pair.large_right.sum())
    assert pair.large.macs == LARGE, "without the tiny model"


def test_higher_thresholds_cost_more():
    curve = drawn(1, levels=9).curve
    for name in ("threshold", "passed_on", "macs"):
        values = [getattr(point, name) for point in curve]
        assert values == sorted(set(values)), name


def test_images_of_equal_confidence_are_passed_on_together():
    pair = cascade([0.5, 0.9, 0.5, 0.9], [False, True, True, True], [True, True, False, False])
    assert [(point.threshold, point.passed_on, point.right) for point in pair.curve] == [
        (0.0, 0, 3),
        (0.9, 2, 3),
        (ALL_IMAGES, 4, 2),
    ]


def test_certain_images_are_passed_on_only_at_the_last_threshold():
    pair = cascade([1.0, 1.0, 0.4], [True, False, False], [True, True, True])
    assert [point.passed_on for point in pair.curve] == [0, 1, 3]
    assert pair.at(1.0).passed_on == 1


def test_point_equals_the_cascade_at_its_threshold():
    pair = drawn(2, levels=6)
    assert [pair.at(point.threshold) for point in pair.curve] == pair.curve


def test_thresholds_separate_neighbouring_float32_confidences():
    low = torch.tensor(0.7)
    high = torch.nextafter(low, torch.tensor(1.0))
    pair = Cascade(torch.stack([high, low]), torch.tensor([True, False]), torch.tensor([True, True]), TINY, LARGE)
    assert [point.passed_on for point in pair.curve] == [0, 1, 2]
    assert pair.as_accurate().threshold == high.item()
    assert pair.at(pair.as_accurate().threshold).passed_on == 1


def test_savings_are_the_negative_delta_c_of_the_paper():
    """ΔC = c - r, with c the cost of the tiny model relative to the large one and r the share that it classifies."""
    pair = drawn(3)
    for point in pair.curve:
        assert pair.saved(point) == pytest.approx(-(TINY / LARGE - (1 - point.share)))
    assert pair.saved(pair.large) == 0


@pytest.mark.parametrize("images", [2, 3, 201])
def test_held_out_threshold_is_chosen_on_the_other_half(images):
    pair = drawn(4, images=images)
    halves = [
        replace(pair, **{name: getattr(pair, name)[start::2] for name in ("confidence", "tiny_right", "large_right")})
        for start in (0, 1)
    ]
    passed_on = right = macs = 0
    for here, there in (halves, halves[::-1]):
        _, threshold = cheapest_by_hand(there, int(there.large_right.sum()))
        counts = run_by_hand(here, threshold)
        passed_on, right, macs = passed_on + counts[0], right + counts[1], macs + counts[2]
    point = pair.held_out()
    assert (point.threshold, point.passed_on, point.right) == (None, passed_on, right)
    assert point.macs == float(Fraction(macs, images))


def test_threshold_chosen_on_the_same_images_is_optimistic():
    """For two models that are right at random, one of the many thresholds always seems to be good."""
    same = held_out = 0
    for seed in range(40):
        rng = random.Random(seed)
        confidence, tiny, large = ([rng.random() for _ in range(100)] for _ in range(3))
        pair = cascade(confidence, [x < 0.5 for x in tiny], [x < 0.6 for x in large])
        assert pair.as_accurate().right >= pair.large.right
        same += pair.as_accurate().right - pair.large.right
        held_out += pair.held_out().right - pair.large.right
    assert same >= 0 > held_out


def test_better_tiny_model_needs_no_large_one():
    pair = cascade([0.2, 0.3], [True, True], [True, False])
    assert pair.as_accurate() == pair.best() == pair.tiny
    assert pair.held_out().passed_on == 0


def test_useless_tiny_model_saves_nothing():
    pair = cascade([0.9, 0.8, 0.7, 0.6], [False] * 4, [True] * 4)
    assert pair.as_accurate() == pair.curve[-1]
    assert pair.saved(pair.as_accurate()) == pytest.approx(-TINY / LARGE)
    assert pair.held_out().right == 4


def test_nan_confidence_is_an_error():
    with pytest.raises(ValueError, match="NaN for 2 images"):
        cascade([0.5, math.nan, math.nan], [True] * 3, [True] * 3)


def test_holding_out_needs_two_images():
    pair = cascade([0.5], [False], [True])
    assert [point.right for point in pair.curve] == [0, 1]
    with pytest.raises(ValueError, match="at least 2 images, not 1"):
        pair.held_out()
