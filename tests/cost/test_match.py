import time

import pytest

from fvit.cost import count
from fvit.cost.match import COUNTED, make, match

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


@pytest.mark.parametrize("start", [24, 48, 192])
@pytest.mark.parametrize("metric", COUNTED)
@pytest.mark.parametrize("attention", ["additive", "linear", "identity"])
def test_the_width_is_the_nearest_of_all(attention, metric, start):
    budget = budget_of({**SMALL, "embed_dim": 96}, metric)
    model = {**SMALL, "attention": {"name": attention}, "embed_dim": start, "global_pool": "avg"}
    found = match(model, SIZE, CLASSES, COUNTED[metric], budget)
    every = {width: budget_of({**model, "embed_dim": width}, metric) for width in range(24, 200, 24)}
    assert found.model["embed_dim"] == min(every, key=lambda width: abs(every[width] - budget))
    assert found.cost == every[found.model["embed_dim"]]
    assert {**found.model, "embed_dim": start} == model


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


def test_the_paper_sized_search_takes_seconds():
    base = dict(name="vit_small_patch16_224", embed_dim=384, depth=12, num_heads=6, attention={"name": "softmax"})
    budget = COUNTED["macs"](make(base, 224, 1000, on_meta=True), 224)
    start = time.monotonic()
    found = match({**base, "attention": {"name": "additive"}}, 224, 1000, COUNTED["macs"], budget)
    assert abs(found.error) < 0.06
    assert found.cost == count(make(found.model, 224, 1000), 224).macs
    assert time.monotonic() - start < 60


def test_what_cannot_be_is_told():
    with pytest.raises(ValueError, match=r"convnext_atto does not say model.embed_dim, model.num_heads, model.depth"):
        match({"name": "convnext_atto", "attention": {"name": "native"}}, SIZE, CLASSES, COUNTED["macs"], 1)
    with pytest.raises(ValueError, match="at its smallest width, and 10 is asked for"):
        match(SMALL, SIZE, CLASSES, COUNTED["macs"], 10)
