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

# A source's name is the name of its file here and of the function in it, whose parameters are its options:
# fvit.config.signature reads them without importing anything.
SOURCES: dict[str, Callable[..., Source]] = {
    "digits": digits,
    "folder": folder,
    "fake": fake,
    "imagenet": imagenet,
    "imagenette": imagenette,
    "cifar10": cifar10,
}


def load(name: str, **options: Any) -> Source:
    """The source called `name`, built with its own options.

    Raises:
        ValueError: unknown source; the text lists the known ones.
    """
    if name not in SOURCES:
        raise ValueError(f"unknown data source '{name}'; known: {', '.join(SOURCES)}")
    return SOURCES[name](**options)
