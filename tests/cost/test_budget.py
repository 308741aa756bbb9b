import pytest

from fvit.cost import count
from fvit.cost.budget import meet_budget
from fvit.cost.match import make

SMALL = dict(
    name="vit_tiny_patch16_224",
    patch_size=8,
    embed_dim=96,
    depth=2,
    num_heads=3,
    class_token=False,
    global_pool="avg",
    num_classes=None,
    attention={"name": "linear"},
    match=None,
)


def met(classes=10, **changes):
    """The model options, and what is reported."""
    config = {"model": {**SMALL, **changes}, "data": {"img_size": 32}}
    found, facts = meet_budget(config, classes)
    assert found["data"] == config["data"]
    return found["model"], facts


@pytest.mark.parametrize("metric", ["params", "macs"])
def test_width_has_the_cost_of_softmax_attention(metric):
    identity = {"name": "identity"}
    model, [(name, text)] = met(attention=identity, match=metric)
    assert "match" not in model
    assert model["embed_dim"] > 96
    assert {**model, "embed_dim": 96, "match": metric} == {**SMALL, "attention": identity, "match": metric}
    cost = getattr(count(make(model, 32, 10), 32), metric)
    budget = getattr(count(make({**SMALL, "attention": {"name": "softmax"}}, 32, 10), 32), metric)
    assert abs(cost / budget - 1) < 0.2
    assert name == "budget"
    assert text == (
        f"{metric} of softmax attention, {budget / 1e6:.4g} M: embed_dim={model['embed_dim']} instead of 96 has "
        f"{cost / 1e6:.4g} M, {100 * (cost / budget - 1):+.1f} %"
    )


def test_head_is_as_wide_as_in_the_run():
    wide, narrow, given = (
        met(classes, num_classes=outputs, match="params")[1][0][1]
        for outputs, classes in ((None, 1000), (None, 10), (1000, 10))
    )
    assert wide == given != narrow


def test_model_stays_without_a_budget():
    assert met() == ({key: value for key, value in SMALL.items() if key != "match"}, [])


def test_softmax_attention_sets_the_budget_and_stays():
    softmax = {"embed_dim": 100, "attention": {"name": "softmax", "qk_norm": True}}
    model, facts = met(**softmax, match="macs")
    assert {**model, "match": None} == {**SMALL, **softmax}
    assert facts == [("budget", "macs of softmax attention, which is this model: embed_dim=100 stays")]


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"attention": {"name": "native"}}, "no effect with attention=native, .* use attention=softmax, which sets"),
        ({"embed_dim": None, "depth": None}, "has no model.embed_dim, model.depth; use model=vit_tiny"),
        ({"pretrained": True}, "the weights of model.pretrained=True would not fit"),
        ({"init_from": "logs/run"}, "the weights of model.init_from=logs/run would not fit"),
    ],
)
def test_budget_that_cannot_be_met_is_refused(changes, message):
    with pytest.raises(ValueError, match=message):
        met(**changes, match="macs")
    met(**changes)
