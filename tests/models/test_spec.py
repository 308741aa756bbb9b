"""Valid and invalid values of `attention` and `blocks`."""

import pytest
from torch import nn

from fvit.attention import get
from fvit.models import block_indices, exchange, expand

from .small import NoPrefix, both_ways, class_name, finished, images, kinds, small_host

Additive, Linear, Softmax = map(get, ("additive", "linear", "softmax"))

# Values of `attention`, and the mechanisms that they put into three blocks.
SPECS = {
    "a name": ("additive", ["additive"] * 3),
    "a class": (Linear, ["linear"] * 3),
    "a mapping": ({"name": "additive", "logits": "full"}, ["additive"] * 3),
    "a list of names": (["additive", "softmax", "identity"], ["additive", "softmax", "identity"]),
    "a tuple of names": (("additive", "softmax", "identity"), ["additive", "softmax", "identity"]),
    "counts": (["additive*2", "softmax"], ["additive", "additive", "softmax"]),
    "import paths": ([f"{Linear.__module__}:{Linear.__name__} × 2", "softmax"], ["linear", "linear", "softmax"]),
    "counts with ×": (["additive", "softmax×2"], ["additive", "softmax", "softmax"]),
    "counts with spaces": (["additive * 1", " softmax × 2 "], ["additive", "softmax", "softmax"]),
    "a mixture": ([{"name": "linear", "qkv_bias": False}, Softmax, "identity*1"], ["linear", "softmax", "identity"]),
}


@pytest.mark.parametrize("spec", SPECS)
@both_ways
def test_each_form_of_attention(make, spec):
    attention, expected = SPECS[spec]
    model = make(attention)
    assert kinds(model) == expected
    assert model(images()).shape == (2, 5)


@both_ways
def test_options_of_a_mapping_reach_the_mechanism(make):
    model = make([{"name": "additive", "logits": "full"}, "additive", {"name": "additive", "value": "separate"}])
    first, second, third = (block.attn for block in model.blocks)
    assert [m.query_logit.shape[1] for m in (first, second, third)] == [24, 8, 8]
    assert [m.v is not None for m in (first, second, third)] == [False, False, True]


def test_mapping_is_not_modified():
    spec = {"name": "additive", "logits": "full"}
    finished(spec)
    assert spec == {"name": "additive", "logits": "full"}


@pytest.mark.parametrize(
    ("blocks", "attention", "expected"),
    [
        ([0, 2], "additive", ["additive", "Attention", "additive"]),
        ([2, 0], ["linear", "identity"], ["identity", "Attention", "linear"]),
        (range(1, 3), ["softmax*2"], ["Attention", "softmax", "softmax"]),
        ((i for i in [1]), "additive", ["Attention", "additive", "Attention"]),
        ("1-2", ["linear", "additive"], ["Attention", "linear", "additive"]),
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
        ("addditive", None, "unknown attention 'addditive'; registered: additive, "),
        (["additive*2", "sofmax"], None, "unknown attention 'sofmax'; registered: "),
        (["addditive*3"], None, "unknown attention 'addditive'; registered: additive, "),
        ({"name": "additive", "logit": "full"}, None, r"no option 'logit'; it takes: .*logits"),
        ({"name": "softmax", "logits": "full"}, None, f"{class_name('softmax')} has no option 'logits'"),
        ({"name": "additive", "logits": "nonsense"}, None, "logits='nonsense'"),
        ({"name": "additive", "num_heads": 5}, None, "not divisible by 5 heads"),
        ({"logits": "full"}, None, "has no name; write name=additive"),
    ],
)
def test_wrong_spec_is_rejected_and_leaves_the_model_unchanged(attention, blocks, message):
    model = small_host()
    with pytest.raises(ValueError, match=message):
        exchange(model, attention, blocks=blocks)
    assert kinds(model) == ["Attention"] * 3


@pytest.mark.parametrize("attention", [nn.Identity, [1, 2, 3], None], ids=str)
def test_values_of_another_type_are_rejected(attention):
    with pytest.raises(ValueError, match=r"attention.* must be a name"):
        exchange(small_host(), attention)


def test_error_in_one_block_leaves_the_others_unchanged():
    model = small_host()
    with pytest.raises(ValueError, match="NoPrefix"):
        exchange(model, ["additive", "additive", NoPrefix])
    assert kinds(model) == ["Attention"] * 3


def test_expand_gives_one_class_per_block():
    assert expand("softmax", 2) == [Softmax, Softmax]
    assert expand(["additive*2", Linear], 3) == [Additive, Additive, Linear]


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
        ("4..11", r"'4..11' is not a block; write 4, 4-11 or \[0,1,4-11\]"),
        ("4-", "'4-' is not a block"),
        ("", "'' is not a block"),
        ([1.5], "'1.5' is not a block"),
        ("11-4", "runs backwards; write 4-11"),
        ([0, "0-2"], r"blocks \[0, 0, 1, 2\] names a block twice"),
    ],
)
def test_invalid_blocks_are_rejected(blocks, message):
    with pytest.raises(ValueError, match=message):
        block_indices(blocks)
