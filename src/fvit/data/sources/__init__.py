"""Data sources, by name."""

from collections.abc import Callable
from inspect import signature
from typing import Any

from pydantic import ValidationError, validate_call

from fvit.data.sources.base import Source
from fvit.data.sources.builtin import digits, fake
from fvit.data.sources.downloads import cifar10, imagenette
from fvit.data.sources.folder import folder
from fvit.data.sources.imagenet import imagenet
from fvit.data.sources.imagenet_sets import imagenet_a, imagenet_r, imagenet_real, imagenet_sketch, imagenet_v2
from fvit.data.sources.relations import relations
from fvit.data.sources.torch_datasets import own, torchvision_dataset

__all__ = ["SOURCES", "Source", "load"]

SOURCES: dict[str, Callable[..., Source]] = {
    "digits": digits,
    "folder": folder,
    "fake": fake,
    "imagenet": imagenet,
    "imagenet_v2": imagenet_v2,
    "imagenet_a": imagenet_a,
    "imagenet_r": imagenet_r,
    "imagenet_sketch": imagenet_sketch,
    "imagenet_real": imagenet_real,
    "imagenette": imagenette,
    "cifar10": cifar10,
    "relations": relations,
    "torchvision": torchvision_dataset,
    "own": own,
}


def load(name: str, **options: Any) -> Source:
    """Build the source `name`; an unknown source or option, or a wrong type, is a ValueError."""
    if name not in SOURCES:
        raise ValueError(f"data.name={name} is not a data source; known: {', '.join(SOURCES)}")
    try:
        return validate_call(SOURCES[name])(**options)
    except ValidationError as error:
        first = error.errors()[0]
        option, value = first["loc"][0], first["input"]
        if first["type"] == "unexpected_keyword_argument":
            known = ", ".join(signature(SOURCES[name]).parameters)
            takes = f"its options: {known}" if known else "it has no options"
            raise ValueError(f"data.{option} is not an option of data.name={name}; {takes}") from None
        raise ValueError(f"data.{option}={value}: {first['msg'][0].lower()}{first['msg'][1:]}") from None
