import pytest
import torch

from fvit.models import build, inherit

SHAPE = {"name": "vit_tiny_patch16_224", "img_size": 32, "embed_dim": 24, "depth": 2, "num_heads": 3}


def small(attention="softmax", num_classes=10, **options):
    return build(**{**SHAPE, **options}, num_classes=num_classes, attention=attention)


def test_all_is_taken_by_a_model_of_the_same_shape():
    source, model = small().state_dict(), small()
    found = inherit(model, source)
    assert (sorted(found.taken), found.fresh, found.left) == (sorted(source), [], [])
    assert all(torch.equal(weight, source[name]) for name, weight in model.state_dict().items())
    assert str(found) == f"{len(source)} of {len(source)} weights taken"


def test_another_attention_and_another_head_stay_as_they_were_initialised():
    source, model = small().state_dict(), small("additive", num_classes=7)
    before = {name: weight.clone() for name, weight in model.state_dict().items()}
    found = inherit(model, source)
    for name, weight in model.state_dict().items():
        own = ".attn." in name or name.startswith("head.")
        assert (name in found.fresh) == own
        assert torch.equal(weight, before[name] if own else source[name])
    assert set(found.left) == {name for name in source if ".attn." in name or name.startswith("head.")}


def test_mechanisms_with_the_same_projections_share_them():
    found = inherit(small("linear"), small("softmax").state_dict())
    assert not found.fresh
    assert not found.left


def test_what_is_told_names_each_weight_of_all_blocks_once():
    text = str(inherit(small("additive"), small().state_dict()))
    assert text.count("blocks.*.attn.q.weight") == 1
    assert "no place for: blocks.*.attn.qkv.weight" in text


def test_nothing_in_common_is_refused():
    with pytest.raises(
        ValueError,
        match=r"none of the 2 weights to begin with fits the model .* there is fc\.weight, head\.weight, and",
    ):
        inherit(small(), {"fc.weight": torch.zeros(3, 3), "head.weight": torch.zeros(1000, 24)})


def test_weights_are_taken_before_an_exchange_which_may_keep_some():
    source = small("softmax").state_dict()
    model = build(**SHAPE, num_classes=10, attention="additive", keep=["q"], weights=source)
    assert torch.equal(model.blocks[1].attn.q.weight, source["blocks.1.attn.qkv.weight"][:24])
    assert not torch.equal(model.blocks[1].attn.k.weight, source["blocks.1.attn.qkv.weight"][24:48])
    assert torch.equal(model.head.weight, source["head.weight"])
    assert not model.inheritance.fresh


def test_weights_that_are_exchanged_are_taken_behind_it():
    source = small("additive").state_dict()
    model = build(**SHAPE, num_classes=10, attention="additive", weights=source, exchanged=True)
    assert all(torch.equal(weight, source[name]) for name, weight in model.state_dict().items())
    with pytest.raises(ValueError, match="keep has no effect"):
        build(**SHAPE, num_classes=10, attention="additive", keep=["q"], weights=source, exchanged=True)
