"""What may be given as `attention` and as `blocks`, and what cannot."""

import pytest
from torch import nn

from fvit.attention import AdditiveAttention, LinearAttention, SoftmaxAttention
from fvit.models import block_indices, exchange, expand

from .small import NoPrefix, being_built, finished, images, kinds, small_host

# What may be given as `attention`, and what it puts into a model of three blocks.
SPECS = {
    "a name": ("additive", ["AdditiveAttention"] * 3),
    "a class": (LinearAttention, ["LinearAttention"] * 3),
    "a mapping": ({"name": "additive", "logits": "full"}, ["AdditiveAttention"] * 3),
    "a list of names": (
        ["additive", "softmax", "identity"],
        ["AdditiveAttention", "SoftmaxAttention", "IdentityMixer"],
    ),
    "a tuple of names": (
        ("additive", "softmax", "identity"),
        ["AdditiveAttention", "SoftmaxAttention", "IdentityMixer"],
    ),
    "counts": (["additive*2", "softmax"], ["AdditiveAttention", "AdditiveAttention", "SoftmaxAttention"]),
    "places": (
        ["fvit.attention.zoo.linear:LinearAttention × 2", "softmax"],
        ["LinearAttention", "LinearAttention", "SoftmaxAttention"],
    ),
    "counts with ×": (["additive", "softmax×2"], ["AdditiveAttention", "SoftmaxAttention", "SoftmaxAttention"]),
    "counts with spaces": (
        ["additive * 1", " softmax × 2 "],
        ["AdditiveAttention", "SoftmaxAttention", "SoftmaxAttention"],
    ),
    "a mixture": (
        [{"name": "linear", "qkv_bias": False}, SoftmaxAttention, "identity*1"],
        ["LinearAttention", "SoftmaxAttention", "IdentityMixer"],
    ),
}


@pytest.mark.parametrize("spec", SPECS)
@pytest.mark.parametrize("make", [being_built, finished])
def test_each_form_of_attention(make, spec):
    attention, expected = SPECS[spec]
    model = make(attention)
    assert kinds(model) == expected
    assert model(images()).shape == (2, 5)


@pytest.mark.parametrize("make", [being_built, finished])
def test_twelve_blocks_by_count(make):
    model = make(["additive*8", "softmax×4"], depth=12)
    assert kinds(model) == ["AdditiveAttention"] * 8 + ["SoftmaxAttention"] * 4


@pytest.mark.parametrize("make", [being_built, finished])
def test_options_of_a_mapping_reach_the_mechanism(make):
    model = make([{"name": "additive", "logits": "full"}, "additive", {"name": "additive", "value": "separate"}])
    first, second, third = (block.attn for block in model.blocks)
    assert [m.query_logit.shape[1] for m in (first, second, third)] == [24, 8, 8]
    assert [m.v is not None for m in (first, second, third)] == [False, False, True]


def test_a_mapping_is_left_as_it_was():
    spec = {"name": "additive", "logits": "full"}
    finished(spec)
    assert spec == {"name": "additive", "logits": "full"}


@pytest.mark.parametrize(
    ("blocks", "attention", "expected"),
    [
        ([0, 2], "additive", ["AdditiveAttention", "Attention", "AdditiveAttention"]),
        ([2, 0], ["linear", "identity"], ["IdentityMixer", "Attention", "LinearAttention"]),
        (range(1, 3), ["softmax*2"], ["Attention", "SoftmaxAttention", "SoftmaxAttention"]),
        ((i for i in [1]), "additive", ["Attention", "AdditiveAttention", "Attention"]),
        ([], "additive", ["Attention"] * 3),
    ],
)
def test_only_chosen_blocks(blocks, attention, expected):
    model = exchange(small_host(), attention, blocks=blocks)
    assert kinds(model) == expected
    assert model(images()).shape == (2, 5)


@pytest.mark.parametrize(
    ("attention", "blocks", "message"),
    [
        (["additive", "softmax"], None, "lists 2 blocks and the model has 3"),
        (["additive*4"], None, "lists 4 blocks and the model has 3"),
        ([], None, "lists 0 blocks"),
        (["additive*3"], [0, 1], "lists 3 blocks and the model has 2"),
        ("additive", [3], r"blocks \[3\] do not exist; the model has blocks 0 to 2"),
        ("additive", [-1, 0], r"blocks \[-1\] do not exist"),
        ("addditive", None, "unknown attention 'addditive'; registered: additive"),
        (["additive*2", "sofmax"], None, "unknown attention 'sofmax'; registered: .*softmax"),
        (["addditive*3"], None, "unknown attention 'addditive'; registered: additive"),
        ({"name": "additive", "logit": "full"}, None, "no option 'logit'; it takes: .*logits"),
        ({"name": "softmax", "logits": "full"}, None, "SoftmaxAttention has no option 'logits'"),
        ({"name": "additive", "logits": "nonsense"}, None, "logits='nonsense' must be one of per_head, full"),
        ({"name": "additive", "num_heads": 5}, None, "not divisible by 5 heads"),
        ({"logits": "full"}, None, "has no name; write name=additive"),
    ],
)
def test_wrong_spec_is_refused_and_leaves_the_model_alone(attention, blocks, message):
    model = small_host()
    with pytest.raises(ValueError, match=message):
        exchange(model, attention, blocks=blocks)
    assert kinds(model) == ["Attention"] * 3


@pytest.mark.parametrize("attention", [nn.Identity, [1, 2, 3], None], ids=str)
def test_what_is_no_spec_at_all_is_refused(attention):
    with pytest.raises(ValueError, match="attention"):
        exchange(small_host(), attention)


def test_a_refusal_of_one_block_leaves_the_others_alone():
    model = small_host()
    with pytest.raises(ValueError, match="NoPrefix"):
        exchange(model, ["additive", "additive", NoPrefix])
    assert kinds(model) == ["Attention"] * 3


def test_expand_gives_one_class_a_block():
    assert expand("softmax", 2) == [SoftmaxAttention, SoftmaxAttention]
    assert expand(["additive*2", LinearAttention], 3) == [AdditiveAttention, AdditiveAttention, LinearAttention]


@pytest.mark.parametrize(
    ("blocks", "indices"),
    [
        ("4-11", list(range(4, 12))),
        ("0,1,4-6", [0, 1, 4, 5, 6]),
        (" 2 , 0 - 1 ", [2, 0, 1]),
        ([0, 1, "4-6"], [0, 1, 4, 5, 6]),
        (["0,3", 5], [0, 3, 5]),
        (range(3), [0, 1, 2]),
        ("3", [3]),
        (3, [3]),
        ("3-3", [3]),
        ([], []),
    ],
)
def test_blocks_are_numbers_and_ranges(blocks, indices):
    assert block_indices(blocks) == indices


@pytest.mark.parametrize(
    ("blocks", "message"),
    [
        ("4..11", r"'4..11' is no block; write 4, 4-11 or \[0,1,4-11\]"),
        ("4-", "'4-' is no block"),
        ("", "'' is no block"),
        ([1.5], "'1.5' is no block"),
        ("11-4", "runs backwards; write 4-11"),
        ([0, "0-2"], r"blocks \[0, 0, 1, 2\] names a block twice"),
    ],
)
def test_what_names_no_blocks_is_refused(blocks, message):
    with pytest.raises(ValueError, match=message):
        block_indices(blocks)


def test_ranges_reach_the_model():
    assert kinds(exchange(small_host(), ["linear", "additive"], blocks="1-2")) == [
        "Attention",
        "LinearAttention",
        "AdditiveAttention",
    ]
