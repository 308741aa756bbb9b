"""Matching a budget by width or depth."""

import time

import pytest

from fvit.cost import count
from fvit.cost import match as matching
from fvit.cost.match import COUNTED, make, match, match_count, match_latency, meet_budget
from fvit.cost.timing import Timing
from fvit.cost.workload import Conditions, Workload

SMALL = dict(
    name="vit_tiny_patch16_224", patch_size=8, embed_dim=48, depth=3, num_heads=3, attention={"name": "softmax"}
)
SIZE, CLASSES = 32, 10


def budget_of(model, metric):
    return COUNTED[metric](make(model, SIZE, CLASSES), SIZE)


@pytest.mark.parametrize("metric", COUNTED)
def test_model_meets_its_own_budget_unchanged(metric):
    found = match(SMALL, SIZE, CLASSES, COUNTED[metric], budget_of(SMALL, metric))
    assert found.model == SMALL
    assert found.error == 0


@pytest.mark.slow
@pytest.mark.parametrize(
    ("attention", "metric"),
    [(attention, metric) for attention in ("additive", "identity") for metric in COUNTED],
)
def test_width_is_the_nearest_of_all_from_any_start(attention, metric):
    budget = budget_of({**SMALL, "embed_dim": 96}, metric)
    model = {**SMALL, "attention": {"name": attention}, "global_pool": "avg"}
    every = {width: budget_of({**model, "embed_dim": width}, metric) for width in range(24, 168, 24)}
    nearest = min(every, key=lambda width: abs(every[width] - budget))
    for start in (24, 192):
        found = match({**model, "embed_dim": start}, SIZE, CLASSES, COUNTED[metric], budget)
        assert found.model == {**model, "embed_dim": nearest}
        assert found.cost == every[nearest]


@pytest.mark.slow
def test_depth_is_the_nearest_of_all():
    budget = budget_of(SMALL, "macs")
    model = {**SMALL, "attention": {"name": "identity"}, "global_pool": "avg"}
    found = match(model, SIZE, CLASSES, COUNTED["macs"], budget, by="depth")
    every = {depth: budget_of({**model, "depth": depth}, "macs") for depth in range(1, 12)}
    assert found.model["depth"] == min(every, key=lambda depth: abs(every[depth] - budget)) > 3
    assert found.model["embed_dim"] == SMALL["embed_dim"]


@pytest.mark.parametrize("heads", [3, *(pytest.param(heads, marks=pytest.mark.slow) for heads in (1, 2, 4, 6, 12))])
def test_number_of_heads_stays_and_their_width_is_even(heads):
    model = {**SMALL, "num_heads": heads, "embed_dim": 48}
    found = match(model, SIZE, CLASSES, COUNTED["params"], 1e6)
    assert found.model["num_heads"] == heads
    assert found.model["embed_dim"] % (2 * heads) == found.model["embed_dim"] % 8 == 0


def test_budget_may_be_a_measurement():
    widths = []

    def measured(model, img_size):
        widths.append(model.embed_dim)
        assert not next(model.parameters()).is_meta
        return float(model.embed_dim)

    assert match(SMALL, SIZE, CLASSES, measured, 150).model["embed_dim"] == 144
    assert len(widths) == len(set(widths)) < 8, "each is measured once"


@pytest.mark.slow
def test_search_at_full_size_takes_seconds():
    base = dict(name="vit_small_patch16_224", embed_dim=384, depth=12, num_heads=6, attention={"name": "softmax"})
    budget = COUNTED["macs"](make(base, 224, 1000, on_meta=True), 224)
    start = time.monotonic()
    found = match({**base, "attention": {"name": "additive"}}, 224, 1000, COUNTED["macs"], budget)
    assert abs(found.error) < 0.06
    assert found.cost == count(make(found.model, 224, 1000), 224).macs
    assert time.monotonic() - start < 60


@pytest.mark.slow
@pytest.mark.parametrize("metric", ["params", "macs"])
def test_reference_may_be_another_model(metric):
    other = {**SMALL, "embed_dim": 72, "depth": 2}
    found = match_count({**SMALL, "attention": {"name": "linear"}}, other, SIZE, CLASSES, metric)
    assert found.budget == budget_of(other, metric)
    assert found == match(
        {**SMALL, "attention": {"name": "linear"}}, SIZE, CLASSES, COUNTED[metric], budget_of(other, metric)
    )


@pytest.mark.slow
def test_latency_is_matched_in_turns_with_the_reference(monkeypatch):
    """With a clock that counts MACs and slows down from call to call."""
    speeds = iter(range(1, 100))

    def turns(steps, runs, seconds, device):
        assert list(steps) == ["tried", "other"]
        assert (runs, seconds) == (3, 0.5)
        speed = next(speeds)
        return {name: Timing((speed * count(model, SIZE).macs,) * 3) for name, model in steps.items()}

    monkeypatch.setattr(Workload, "forward", lambda workload, batch: workload.model)
    monkeypatch.setattr(matching, "time_in_turns", turns)
    model = {**SMALL, "attention": {"name": "identity"}, "global_pool": "avg"}
    reference = {**SMALL, "embed_dim": 96}
    found = match_latency(model, reference, Conditions(SIZE), CLASSES, runs=3, seconds=0.5)
    counted = match_count(model, reference, SIZE, CLASSES, "macs")
    assert found.model == counted.model
    assert found.budget == 1
    assert found.error == pytest.approx(counted.error)


@pytest.mark.slow
def test_latency_is_matched_by_the_clock():
    model = {**SMALL, "attention": {"name": "identity"}, "global_pool": "avg"}
    found = match_latency(model, {**SMALL, "depth": 12}, Conditions(SIZE), CLASSES, by="depth", runs=5, seconds=0.2)
    assert found.model["depth"] > 8, "without attention more layers take as long"
    assert abs(found.error) < 0.9


def test_make_ignores_pretrained_weights():
    origins = {"pretrained": True, "init_from": "none", "keep": ["qkv"]}
    assert make({**SMALL, **origins}, SIZE, CLASSES).embed_dim == SMALL["embed_dim"]


def test_budgets_that_cannot_be_met_are_rejected():
    with pytest.raises(ValueError, match=r"convnext_atto has no model.embed_dim, model.num_heads, model.depth"):
        match({"name": "convnext_atto", "attention": {"name": "native"}}, SIZE, CLASSES, COUNTED["macs"], 1)
    with pytest.raises(ValueError, match="at its smallest width, and the budget is 10"):
        match(SMALL, SIZE, CLASSES, COUNTED["macs"], 10)


# model.match of a training run

MODEL = {**SMALL, "num_classes": None, "match": "macs", "global_pool": "avg"}


def met(classes=CLASSES, **options):
    config, found = meet_budget({"model": {**MODEL, **options}, "data": {"img_size": SIZE}, "seed": 1}, classes)
    assert {key: config[key] for key in ("data", "seed")} == {"data": {"img_size": SIZE}, "seed": 1}
    assert "match" not in config["model"]
    return config["model"], dict(found)


@pytest.mark.parametrize("metric", COUNTED)
def test_model_meets_the_budget_of_softmax_attention(metric):
    softmax = {**MODEL, "embed_dim": 96, "match": None}
    identity = {**softmax, "attention": {"name": "identity"}, "match": metric}
    model, found = met(**identity)
    assert {**model, "embed_dim": 96, "match": metric} == identity
    cost, budget = budget_of(model, metric), budget_of(softmax, metric)
    assert model["embed_dim"] > 96
    assert abs(cost / budget - 1) < 0.2
    assert found["budget"] == (
        f"{metric} of softmax attention, {budget / 1e6:.4g} M: embed_dim={model['embed_dim']} instead of 96 has "
        f"{cost / 1e6:.4g} M, {100 * (cost / budget - 1):+.1f} %"
    )


def test_head_has_the_outputs_of_the_run():
    wide, narrow, given = (
        met(classes, attention={"name": "linear"}, match="params", num_classes=outputs)[1]["budget"]
        for outputs, classes in ((None, 1000), (None, 10), (1000, 10))
    )
    assert wide == given != narrow


def test_model_stays_without_a_budget_and_with_softmax_attention():
    assert met(match=None) == ({key: value for key, value in MODEL.items() if key != "match"}, {})
    model, found = met(attention={"name": "softmax", "qk_norm": True}, embed_dim=100)
    assert model["embed_dim"] == 100
    assert found == {"budget": "macs of softmax attention, which is this model: embed_dim=100 stays"}


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"attention": {"name": "native"}}, "no effect with attention=native, .* use attention=softmax, which sets"),
        ({"embed_dim": None, "depth": None}, "has no model.embed_dim, model.depth; use model=vit_tiny"),
        ({"pretrained": True}, "the weights of model.pretrained=True would not fit"),
        ({"init_from": "logs/run"}, "the weights of model.init_from=logs/run would not fit"),
    ],
)
def test_settings_that_a_budget_excludes_are_rejected(changes, message):
    with pytest.raises(ValueError, match=message):
        met(**changes)
    met(**changes, match=None)
