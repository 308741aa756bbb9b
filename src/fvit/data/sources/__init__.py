"""Where images come from: every source gives a training set and a validation set of encoded images."""

from collections.abc import Callable
from typing import Any

from fvit.data.sources.base import Source
from fvit.data.sources.cifar10 import cifar10
from fvit.data.sources.digits import digits
from fvit.data.sources.fake import fake
from fvit.data.sources.folder import folder
from fvit.data.sources.imagenet import imagenet
from fvit.data.sources.imagenette import imagenette

__all__ = ["SOURCES", "Source", "load"]

SOURCES: dict[str, Callable[..., Source]] = {
    "digits": digits,
    "folder": folder,
    "fake": fake,
    "imagenet": imagenet,
    "imagenette": imagenette,
    "cifar10": cifar10,
}


def get(name: str) -> Callable[..., Source]:
    """The function that makes the source called `name`; its parameters are the source's options.

    Raises:
        ValueError: unknown source; the message lists the known ones.
    """
    if name not in SOURCES:
        raise ValueError(f"unknown data source '{name}'; known: {', '.join(SOURCES)}")
    return SOURCES[name]


def load(name: str, **options: Any) -> Source:
    """The source called `name`, built with its own options.

    Raises:
        ValueError: unknown source; the message lists the known ones.
    """
    return get(name)(**options)
