"""Outputs of a model and classes of a dataset, matched by name."""

from types import SimpleNamespace

import pytest
from timm.data import ImageNetInfo

from fvit.training.classes import check_unchanged, counterparts, match, pretrained_classes, select_outputs

ANIMALS = ["ant", "bee", "cat", "dog"]
SYNSETS = ["n01440764", "n01443537", "n02012849", "n03126707", "n04399382"]  # tench, goldfish, two cranes, teddy


@pytest.mark.parametrize(
    ("classes", "outputs", "expected"),
    [
        (ANIMALS, ANIMALS, [0, 1, 2, 3]),
        (["ant", "ant", "bee"], ["ant", "ant", "bee"], [0, 1, 2]),
        (["dog", "ant"], ANIMALS, [3, 0]),
        (["ant", "zebra"], ANIMALS, [0, None]),
        (["Ant"], ANIMALS, [None]),
        (["10", "2", "1"], ["0", "1", "10", "2"], [2, 3, 1]),
        (["01"], ["1"], [None]),
        (["cafe\u0301"], ["caf\u00e9"], [0]),  # as macOS and Linux write é
        (["ant", "bee"], ["ant", "ant", "bee"], [None, 2]),
        (["ant", "ant", "bee"], ["ant", "bee"], [None, None, 1]),
        # WordNet IDs
        (["n01443537", "n01440764"], SYNSETS, [1, 0]),
        (["tench", "goldfish, Carassius auratus"], SYNSETS, [0, 1]),
        (["Teddy_bear", "Carassius auratus"], SYNSETS, [4, 1]),
        (["n01443537 goldfish", "n01440764_tench"], SYNSETS, [1, 0]),
        (["crane", "crane2"], SYNSETS, [2, 3]),
        (["crane"], ["n02012849 crane", "n03126707 crane"], [0]),
        (SYNSETS[:2], ["goldfish", "tench, Tinca tinca", "pet"], [1, 0]),
        (["horn"], ["n03394916", "n03452741"], [0]),  # a French horn, and a piano
        (["tench", "n01440764"], SYNSETS, [None, None]),
        (["zebra"], SYNSETS, [None]),
        (["tench"], ["goldfish"], [None]),
    ],
)
def test_counterparts_are_found_by_name(classes, outputs, expected):
    assert counterparts(classes, outputs) == expected


def test_all_of_imagenet_is_matched_by_its_words():
    """As Hugging Face names them, shuffled."""
    info = ImageNetInfo("imagenet-1k")
    words = [info.label_descriptions(as_dict=True)[name] for name in info.label_names()]
    words[words.index("crane", words.index("crane") + 1)] = "crane2"
    assert counterparts(words[::-1], info.label_names()) == list(range(1000))[::-1]
    assert counterparts(info.label_names(), words) == list(range(1000))


def test_classes_without_a_counterpart_are_named():
    with pytest.raises(
        ValueError,
        match=r"^best\.ckpt has no class .* for 2 of the 3 .*: yak, zebra\. Its 4 classes are ant, bee, cat, dog",
    ):
        match(["yak", "bee", "zebra"], ANIMALS, "best.ckpt")


@pytest.mark.parametrize(
    ("classes", "num_outputs", "expected"),
    [
        (ANIMALS, 4, None),
        (ANIMALS, 6, None),  # outputs beyond the classes take part, as in training
        (ANIMALS[::-1], 4, [3, 2, 1, 0]),
        (ANIMALS[::-1], 6, [3, 2, 1, 0, 4, 5]),
        (["dog", "bee"], 4, [3, 1]),
        (["dog", "bee"], 6, [3, 1]),
    ],
)
def test_outputs_of_a_dataset(classes, num_outputs, expected):
    assert select_outputs(classes, ANIMALS, 4, num_outputs, "best.ckpt") == expected


def test_without_names_only_as_many_classes_are_taken_in_their_order(caplog):
    assert select_outputs(["a", "b"], None, 2, 3, "old.ckpt") is None
    assert "old.ckpt records no names of classes" in caplog.text
    with pytest.raises(ValueError, match=r"has 3 classes, and old\.ckpt was trained with 2, whose names it does not"):
        select_outputs(["a", "b", "c"], None, 2, 3, "old.ckpt")


def test_run_resumes_with_its_own_classes_alone():
    check_unchanged(ANIMALS, ANIMALS, "last.ckpt")
    check_unchanged(["tench", "goldfish"], SYNSETS[:2], "last.ckpt")
    for classes, difference in (
        (["ant", "bee", "cat", "zebra"], r"new: zebra; missing: dog"),
        (["ant", "bee", "cat", "dog", "eel"], r"new: eel"),
        (["ant", "bee"], r"missing: cat, dog"),
        (["bee", "ant", "cat", "dog"], r"in another order: bee was number 1 and is 0, ant was number 0 and is 1"),
    ):
        with pytest.raises(ValueError, match=rf"other classes \({difference}\)\. .* model\.init_from=last\.ckpt"):
            check_unchanged(classes, ANIMALS, "last.ckpt")
    with pytest.raises(ValueError, match=r""" "model\.init_from='my run/last\.ckpt'", which matches"""):
        check_unchanged(ANIMALS[:2], ANIMALS, "my run/last.ckpt")


@pytest.mark.parametrize(("num_classes", "expected"), [(1000, "n01440764"), (21841, "n00004475"), (7, None)])
def test_classes_of_published_weights(num_classes, expected):
    names = pretrained_classes(SimpleNamespace(num_classes=num_classes, pretrained_cfg={}))
    assert names is None if expected is None else (names[0], len(names)) == (expected, num_classes)
    named = SimpleNamespace(num_classes=num_classes, pretrained_cfg={"label_names": ("cat", "dog")})
    assert pretrained_classes(named) == ["cat", "dog"]
