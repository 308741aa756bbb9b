"""Which output of a model stands for which class of a dataset: matched by name, never by position or count."""

import logging
import re
import unicodedata
from collections import Counter
from collections.abc import Iterable, Sequence

from timm.data import ImageNetInfo, infer_imagenet_subset
from torch import nn

from fvit.config.overrides import argument
from fvit.models import transfer_weights

log = logging.getLogger(__name__)

# A WordNet ID, alone or in front of its words.
_SYNSET = re.compile(r"(n\d{8})(?:[ _-].*)?")
# The only two classes of ImageNet with the same words: the bird and the machine, as Hugging Face numbers them.
_CRANES = {"crane": "n02012849", "crane2": "n03126707"}


def counterparts(classes: Sequence[str], outputs: Sequence[str]) -> list[int | None]:
    """For each of `classes`, the index of the same class in `outputs`; None if there is none, or more than one.

    Classes that are the same in all places are their own counterparts, even if two have one name.

    Names are the same if they are equal, or if one is a WordNet ID (n01440764, n01440764 tench) and the other its words
    (tench; "tench, Tinca tinca").
    """
    if list(classes) == list(outputs):
        return list(range(len(outputs)))
    names, known = ([unicodedata.normalize("NFC", name) for name in each] for each in (classes, outputs))
    if not set(names) <= set(known) and (synsets := {synset for name in names + known if (synset := wordnet_id(name))}):
        words = _synsets_by_words(synsets)
        names, known = ([_identify(name, words) for name in each] for each in (names, known))
    index, times, asked = {name: place for place, name in enumerate(known)}, Counter(known), Counter(names)
    return [index[name] if times[name] == asked[name] == 1 else None for name in names]


def match(classes: Sequence[str], outputs: Sequence[str], owner: str) -> list[int]:
    """`counterparts` of all `classes`.

    Args:
        classes: of the dataset.
        outputs: names of the outputs of a model.
        owner: whose outputs they are, for the message.

    Raises:
        ValueError: names the classes without a counterpart.
    """
    found = counterparts(classes, outputs)
    if missing := [name for name, index in zip(classes, found, strict=True) if index is None]:
        raise ValueError(
            f"{owner} has no class of that name for {len(missing)} of the {len(classes)} classes of the dataset: "
            f"{abbreviate(missing)}. Its {len(outputs)} classes are {abbreviate(outputs)}. Give each class the name "
            "that it had in training, or leave it out"
        )
    return [index for index in found if index is not None]


def select_outputs(
    classes: Sequence[str], trained: Sequence[str] | None, num_trained: int, num_outputs: int, owner: str
) -> list[int] | None:
    """The outputs on which a model is evaluated, in the order of the dataset's classes; None for all, as they are.

    These are the outputs of the dataset's classes alone, which may be fewer than the model's. If they are all of its
    classes, outputs that no class had in training take part as well, as they did then.

    Args:
        classes: of the dataset.
        trained: the classes with which the model was trained; None if they were not recorded.
        num_trained: how many those are.
        num_outputs: number of outputs of the model.
        owner: whose outputs they are, for messages.

    Raises:
        ValueError: a class of the dataset has no counterpart.
    """
    if trained is None:
        if len(classes) != num_trained:
            raise ValueError(
                f"the dataset has {len(classes)} classes, and {owner} was trained with {num_trained}, whose names it "
                "does not record, so that they cannot be matched: evaluate it on the classes with which it was trained"
            )
        log.warning("%s records no names of classes: the dataset's are taken in their order", owner)
        return None
    chosen = match(classes, trained, owner)
    if len(chosen) == len(trained):
        chosen += range(len(trained), num_outputs)
    return None if chosen == list(range(num_outputs)) else chosen


def check_unchanged(classes: Sequence[str], trained: Sequence[str], owner: str) -> None:
    """Check that a run that resumes has the classes, in the order, with which it started.

    Raises:
        ValueError: it has not; the message names the classes.
    """
    if differing := _difference(classes, trained):
        raise ValueError(
            f"{owner} was trained on other classes ({differing}). Resume it with its own data, or start a new run with "
            f"{argument('model.init_from', owner)}, which matches the outputs by name"
        )


def check_same(classes: Sequence[str], outputs: Sequence[str]) -> None:
    """Check that a module is trained on the classes, in the order, of its outputs.

    Raises:
        ValueError: it is not; the message names the classes.
    """
    if differing := _difference(classes, outputs):
        raise ValueError(
            f"the module has other classes than the data ({differing}): build it with classes=data.classes; "
            "init_from=CHECKPOINT in its model then takes over the outputs by name"
        )


def pretrained_classes(model: nn.Module) -> list[str] | None:
    """The classes of a timm model's published weights, in the order of its outputs; None if they are unknown.

    timm orders those of ImageNet by WordNet ID.
    """
    if names := getattr(model, "pretrained_cfg", {}).get("label_names"):
        return list(names)
    subset = infer_imagenet_subset(model)
    return ImageNetInfo(subset).label_names() if subset else None


def order_pretrained_head(model: nn.Module, classes: Sequence[str]) -> None:
    """Give the outputs of published weights the order of the dataset's classes, if those are the same."""
    names = pretrained_classes(model)
    if names is None or model.pretrained_cfg.get("num_classes") != model.num_classes:  # a new head
        return
    found = counterparts(classes, names)
    if None not in found and found != list(range(len(names))):
        transfer_weights(model, model.state_dict(), found)


def abbreviate(names: Iterable[str], most: int = 8) -> str:
    """The first names, in one line."""
    listed = list(names)
    return ", ".join(listed[:most]) + (", …" if len(listed) > most else "")


def wordnet_id(name: str) -> str | None:
    """That with which a name begins, if it does."""
    return found[1] if (found := _SYNSET.fullmatch(name)) else None


def _difference(classes: Sequence[str], outputs: Sequence[str]) -> str:
    """Which classes are new, missing or in another place, in words; empty if there are none."""
    found = counterparts(classes, outputs)
    if found == list(range(len(outputs))):
        return ""
    new = [name for name, index in zip(classes, found, strict=True) if index is None]
    gone = [name for index, name in enumerate(outputs) if index not in found]
    differing = [f"{kind}: {abbreviate(names)}" for kind, names in (("new", new), ("missing", gone)) if names]
    moved = [
        f"{name} was number {index} and is {place}"
        for place, (name, index) in enumerate(zip(classes, found, strict=True))
        if index not in (None, place)
    ]
    return "; ".join(differing) or f"in another order: {abbreviate(moved)}"


def _identify(name: str, synsets: dict[str, str]) -> str:
    """The WordNet ID of a name, if it has one, else the name."""
    return wordnet_id(name) or synsets.get(_plain(name), name)


def _synsets_by_words(synsets: set[str]) -> dict[str, str]:
    """The WordNet ID of all words, and of each word, that stand for one of `synsets` alone."""
    described = {}
    for subset in ("imagenet-22k", "imagenet-1k"):  # neither holds all
        described |= ImageNetInfo(subset).label_descriptions(as_dict=True)
    texts = {synset: described[synset] for synset in synsets if synset in described}
    single = [(_plain(word), synset) for synset, text in texts.items() for word in {*text.split(",")}]
    whole = [(_plain(text), synset) for synset, text in texts.items()]
    found: dict[str, str] = {}
    for pairs in (single, whole):
        times = Counter(word for word, _ in pairs)
        found |= {word: synset for word, synset in pairs if times[word] == 1}
    return found | {word: synset for word, synset in _CRANES.items() if synset in synsets}


def _plain(words: str) -> str:
    return " ".join(words.replace("_", " ").casefold().split())
