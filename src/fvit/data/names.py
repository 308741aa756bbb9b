"""What classes are called, for people."""

import re
from collections.abc import Sequence

from timm.data import ImageNetInfo

_SYNSET = re.compile(r"n\d{8}")


def readable(classes: Sequence[str] | None, count: int) -> list[str]:
    """A name for each of `count` outputs: numbers where there is none, and WordNet's words beside its numbers.

    Args:
        classes: names in the order of the labels; None if they are not known.
        count: outputs of the head, which may be more.
    """
    names = [*(classes or ()), *(f"class {index}" for index in range(len(classes or ()), count))]
    if not all(_SYNSET.fullmatch(name) for name in names):
        return names
    words = ImageNetInfo("imagenet-22k").label_descriptions(as_dict=True)
    return [f"{name} {words[name].partition(',')[0]}" if name in words else name for name in names]
