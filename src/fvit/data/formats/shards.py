"""A place full of tar shards: prepared by us, with a manifest, or WebDataset shards as others write them."""

import hashlib
import logging
import re
from collections.abc import Sequence
from pathlib import Path

import numpy as np

from fvit.data.formats import index, manifest
from fvit.data.formats.tar import TarImages
from fvit.data.images import DataError
from fvit.data.storage.base import File, Storage

_log = logging.getLogger(__name__)

_WORDS = {"train": "train", "training": "train", "val": "val", "valid": "val", "validation": "val", "test": "test"}


def open_shards(place: Storage, cache: Path) -> tuple[TarImages, TarImages, list[str]]:
    """The training images, the validation images, and the class names in the order of the labels.

    Args:
        place: holds manifest.json and what it names, or WebDataset shards whose names or folders say ``train`` and
            ``val``, ``validation`` or, without either, ``test``.
        cache: where the index of shards without a manifest is kept.

    Raises:
        DataError: shards are missing, changed or damaged, or a split has none, or a label is beyond the classes.
    """
    files = place.files([".tar", ".npy", manifest.NAME])
    described = next((file for file in files if file.name == manifest.NAME), None)
    if described is not None:
        train, val, classes = _open_prepared(place, described, {file.name: file for file in files})
    else:
        train, val, classes = _open_foreign(place, [file for file in files if file.name.endswith(".tar")], cache)
    for images in (train, val):
        beyond = (images.labels < 0) | (images.labels >= len(classes))
        if beyond.any():
            first = int(beyond.argmax())
            raise DataError(
                f"{images.locate(first)} has label {images.labels[first]}, and there are {len(classes)} classes: "
                f"labels run from 0 to {len(classes) - 1}"
            )
    return train, val, classes


def _open_prepared(place: Storage, described: File, present: dict[str, File]) -> tuple[TarImages, TarImages, list[str]]:
    content = manifest.read(place.local(described), f"{place.root.rstrip('/')}/{manifest.NAME}")
    opened = []
    for split in content.by_split().values():
        for shard in split.shards:
            _check_present(place, shard, present)
        shards = [_expected(shard, present) for shard in split.shards]
        path = place.local(_expected(split.index, present))
        with path.open("rb") as file:
            if hashlib.file_digest(file, "sha256").hexdigest() != split.index.sha256:
                raise DataError(f"{path} is not the index that the manifest names: fetch it again")
        counts = np.array([shard.images for shard in split.shards])
        opened.append(TarImages(place, shards, counts, path, has_crc=True))
    return opened[0], opened[1], content.classes


def _check_present(place: Storage, shard: manifest.Shard, present: dict[str, File]) -> None:
    name = f"{place.root.rstrip('/')}/{shard.name}"
    if shard.name not in present:
        raise DataError(f"{name} is missing; fetch it again, and look for others with fvit-prepare verify={place.root}")
    size = present[shard.name].size
    if size != shard.size:
        raise DataError(
            f"{name} has {size:,} bytes and should have {shard.size:,}; fetch it again, and look for others with "
            f"fvit-prepare verify={place.root}"
        )


def _expected(file: manifest.FileEntry, present: dict[str, File]) -> File:
    version = present[file.name].version if file.name in present else ""
    return File(file.name, file.size, version, file.sha256)


def _open_foreign(place: Storage, shards: list[File], cache: Path) -> tuple[TarImages, TarImages, list[str]]:
    names = [shard.name for shard in shards]
    found = splits(names)
    validation = found["val"] or found["test"]
    if not found["train"] or not validation:
        lacking = "training" if not found["train"] else "validation"
        seen = f"it has {', '.join(names[:3])}{', …' if len(names) > 3 else ''}" if names else "it has no .tar files"
        raise DataError(
            f"{place.root} has no shards of {lacking} images: {seen}. A shard is known by a word in its name, or in "
            "its folder's: name-train-0000.tar, name-validation-00.tar"
        )
    by_name = {shard.name: shard for shard in shards}
    opened = []
    for chosen in (found["train"], validation):
        files = [by_name[name] for name in chosen]
        path, counts = index.build(place, files, cache)
        opened.append(TarImages(place, files, counts, path, has_crc=False))
    return opened[0], opened[1], class_names(opened[0].labels)


def splits(names: Sequence[str]) -> dict[str, list[str]]:
    """Which names are of ``train``, ``val`` and ``test``, by a word in the file's name or else in its folder's."""
    found: dict[str, list[str]] = {"train": [], "val": [], "test": []}
    for name in names:
        for part in reversed(name.lower().split("/")):
            split = next((_WORDS[word] for word in re.split(r"[^a-z]+", part) if word in _WORDS), None)
            if split:
                found[split].append(name)
                break
    return found


def class_names(labels: np.ndarray) -> list[str]:
    """Names for labels that come without: WordNet ids where there are as many as in ILSVRC 2012, else the numbers."""
    present = np.bincount(labels) > 0
    if len(present) == 1000 and present.all():
        from timm.data import ImageNetInfo

        return ImageNetInfo().label_names()
    if not present.all():
        _log.warning("labels run to %d, and %d of them have no training image", len(present) - 1, (~present).sum())
    return [str(label) for label in range(len(present))]
