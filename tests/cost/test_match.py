import time

import pytest

from fvit.cost import count
from fvit.cost import match as matching
from fvit.cost.match import COUNTED, make, match, match_count, match_latency
from fvit.cost.subject import Conditions, Subject
from fvit.cost.timing import Timing

SMALL = dict(
    name="vit_tiny_patch16_224", patch_size=8, embed_dim=48, depth=3, num_heads=3, attention={"name": "softmax"}
)
SIZE, CLASSES = 32, 10


def budget_of(model, metric):
    return COUNTED[metric](make(model, SIZE, CLASSES), SIZE)


@pytest.mark.parametrize("metric", COUNTED)
def test_a_model_meets_its_own_budget_as_it_is(metric):
    found = match(SMALL, SIZE, CLASSES, COUNTED[metric], budget_of(SMALL, metric))
    assert found.model == SMALL
    assert found.error == 0


@pytest.mark.parametrize("metric", COUNTED)
@pytest.mark.parametrize("attention", ["additive", "linear", "identity"])
def test_the_width_is_the_nearest_of_all_from_wherever_it_starts(attention, metric):
    budget = budget_of({**SMALL, "embed_dim": 96}, metric)
    model = {**SMALL, "attention": {"name": attention}, "global_pool": "avg"}
    every = {width: budget_of({**model, "embed_dim": width}, metric) for width in range(24, 200, 24)}
    nearest = min(every, key=lambda width: abs(every[width] - budget))
    for start in (24, 48, 192):
        found = match({**model, "embed_dim": start}, SIZE, CLASSES, COUNTED[metric], budget)
        assert found.model == {**model, "embed_dim": nearest}
        assert found.cost == every[nearest]


def test_the_depth_is_the_nearest_of_all():
    budget = budget_of(SMALL, "macs")
    model = {**SMALL, "attention": {"name": "identity"}, "global_pool": "avg"}
    found = match(model, SIZE, CLASSES, COUNTED["macs"], budget, by="depth")
    every = {depth: budget_of({**model, "depth": depth}, "macs") for depth in range(1, 12)}
    assert found.model["depth"] == min(every, key=lambda depth: abs(every[depth] - budget)) > 3
    assert found.model["embed_dim"] == SMALL["embed_dim"]


@pytest.mark.parametrize("heads", [1, 2, 3, 4, 6, 12])
def test_heads_stay_and_have_an_even_width(heads):
    model = {**SMALL, "num_heads": heads, "embed_dim": 48}
    found = match(model, SIZE, CLASSES, COUNTED["params"], 1e6)
    assert found.model["num_heads"] == heads
    assert found.model["embed_dim"] % (2 * heads) == found.model["embed_dim"] % 8 == 0


def test_a_budget_may_be_a_measurement():
    widths = []

    def measured(model, img_size):
        widths.append(model.embed_dim)
        assert not next(model.parameters()).is_meta
        return float(model.embed_dim)

    assert match(SMALL, SIZE, CLASSES, measured, 150).model["embed_dim"] == 144
    assert len(widths) == len(set(widths)) < 8, "each is measured once"


@pytest.mark.slow
def test_the_paper_sized_search_takes_seconds():
    base = dict(name="vit_small_patch16_224", embed_dim=384, depth=12, num_heads=6, attention={"name": "softmax"})
    budget = COUNTED["macs"](make(base, 224, 1000, on_meta=True), 224)
    start = time.monotonic()
    found = match({**base, "attention": {"name": "additive"}}, 224, 1000, COUNTED["macs"], budget)
    assert abs(found.error) < 0.06
    assert found.cost == count(make(found.model, 224, 1000), 224).macs
    assert time.monotonic() - start < 60


@pytest.mark.parametrize("metric", COUNTED)
def test_the_reference_may_be_another_model(metric):
    other = {**SMALL, "embed_dim": 72, "depth": 2}
    found = match_count({**SMALL, "attention": {"name": "linear"}}, other, SIZE, CLASSES, metric)
    assert found.budget == budget_of(other, metric)
    assert found == match(
        {**SMALL, "attention": {"name": "linear"}}, SIZE, CLASSES, COUNTED[metric], budget_of(other, metric)
    )


def test_latency_is_matched_in_turns_with_the_reference(monkeypatch):
    """The clock is replaced by one that counts multiply-accumulates, and that slows down from look to look."""
    speeds = iter(range(1, 100))

    def turns(steps, runs, seconds, wait):
        assert list(steps) == ["tried", "other"]
        assert (runs, seconds) == (3, 0.5)
        speed = next(speeds)
        return {name: Timing((speed * count(model, SIZE).macs,) * 3) for name, model in steps.items()}

    monkeypatch.setattr(Subject, "forward", lambda subject, batch: subject.model)
    monkeypatch.setattr(matching, "time_in_turns", turns)
    model = {**SMALL, "attention": {"name": "identity"}, "global_pool": "avg"}
    reference = {**SMALL, "embed_dim": 96}
    found = match_latency(model, reference, Conditions(SIZE), CLASSES, runs=3, seconds=0.5)
    counted = match_count(model, reference, SIZE, CLASSES, "macs")
    assert found.model == counted.model
    assert found.budget == 1
    assert found.error == pytest.approx(counted.error)


def test_latency_is_matched_by_the_clock():
    model = {**SMALL, "attention": {"name": "identity"}, "global_pool": "avg"}
    found = match_latency(model, {**SMALL, "depth": 12}, Conditions(SIZE), CLASSES, by="depth", runs=5, seconds=0.2)
    assert found.model["depth"] > 8, "without attention more layers take as long"
    assert abs(found.error) < 0.9


def test_weights_are_never_fetched():
    origins = {"pretrained": True, "init_from": "none", "keep": ["qkv"]}
    assert make({**SMALL, **origins}, SIZE, CLASSES).embed_dim == SMALL["embed_dim"]


def test_what_cannot_be_is_told():
    with pytest.raises(ValueError, match=r"convnext_atto does not say model.embed_dim, model.num_heads, model.depth"):
        match({"name": "convnext_atto", "attention": {"name": "native"}}, SIZE, CLASSES, COUNTED["macs"], 1)
    with pytest.raises(ValueError, match="at its smallest width, and 10 is asked for"):
        match(SMALL, SIZE, CLASSES, COUNTED["macs"], 10)
