import pytest
from fvit.config.budget import check_match, meet_budget

from fvit.cost import count
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


@pytest.mark.parametrize("metric", ["params", "macs"])
def test_the_width_is_that_at_which_it_costs_what_softmax_does(metric):
    model, [(name, told)] = meet_budget({**SMALL, "attention": {"name": "identity"}, "match": metric}, 32, 10)
    assert "match" not in model
    assert model["embed_dim"] > 96
    assert {**model, "embed_dim": 96, "match": metric} == {**SMALL, "attention": {"name": "identity"}, "match": metric}
    cost = getattr(count(make(model, 32, 10), 32), metric)
    budget = getattr(count(make({**SMALL, "attention": {"name": "softmax"}}, 32, 10), 32), metric)
    assert abs(cost / budget - 1) < 0.2
    assert name == "budget"
    assert told == (
        f"{metric} of softmax attention, {budget / 1e6:.4g} M: embed_dim={model['embed_dim']} in place of 96 has "
        f"{cost / 1e6:.4g} M, {100 * (cost / budget - 1):+.1f} %"
    )


def test_the_head_is_as_wide_as_in_the_run():
    wide, narrow, given = (
        meet_budget({**SMALL, "num_classes": outputs, "match": "params"}, 32, classes)[1][0][1]
        for outputs, classes in ((None, 1000), (None, 10), (1000, 10))
    )
    assert wide == given != narrow


@pytest.mark.parametrize("model", [SMALL, {key: value for key, value in SMALL.items() if key != "match"}])
def test_without_a_budget_the_model_stays(model):
    assert meet_budget(model, 32, 10) == ({key: value for key, value in SMALL.items() if key != "match"}, [])


def test_softmax_attention_sets_the_budget_and_stays():
    softmax = {**SMALL, "embed_dim": 100, "attention": {"name": "softmax", "qk_norm": True}, "match": "macs"}
    check_match(softmax)
    model, told = meet_budget(softmax, 32, 10)
    assert {**model, "match": "macs"} == softmax
    assert told == [("budget", "macs of softmax attention, which is this model: embed_dim=100 stays")]


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"attention": {"name": "native"}}, "no effect with attention=native, .* take attention=softmax, which sets"),
        ({"embed_dim": None, "depth": None}, "does not say model.embed_dim, model.depth; take model=vit_tiny"),
        ({"pretrained": True}, "the weights of model.pretrained=True do not fit"),
        ({"init_from": "logs/run"}, "the weights of model.init_from=logs/run do not fit"),
    ],
)
def test_what_has_no_effect_is_refused(changes, message):
    with pytest.raises(ValueError, match=message):
        check_match({**SMALL, "match": "macs", **changes})
    check_match({**SMALL, **changes})
