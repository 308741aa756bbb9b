"""ImageNet, in each of the forms in which it is handed on."""

import os
import re
from pathlib import Path

from fvit.data.formats import manifest
from fvit.data.formats.files import FileImages, image_names, listing
from fvit.data.formats.parquet import open_parquet
from fvit.data.formats.shards import open_shards
from fvit.data.images import DataError
from fvit.data.sources.base import Source, existing_folder
from fvit.data.sources.folder import class_folders, labelled_tree, tree
from fvit.data.sources.ground_truth import DEVKIT, ground_truth
from fvit.data.storage.base import LocalStorage, Storage, open_storage
from fvit.data.storage.cache import cache_dir as default_cache_dir

_TRAIN = ("train", "Data/CLS-LOC/train", "ILSVRC/Data/CLS-LOC/train", "ILSVRC2012_img_train")
_VAL = ("val", "Data/CLS-LOC/val", "ILSVRC/Data/CLS-LOC/val", "ILSVRC2012_img_val")
_FORMS = (
    "train/CLASS/*.JPEG with val/CLASS/*.JPEG or with val/*.JPEG and a list of labels, tar shards, or Parquet files"
)
# The archives that ILSVRC hands out are tars, and no shards.
_ARCHIVE = re.compile(r"(?:^|/)(?:ILSVRC2012_\w+|n\d{8})\.tar$")
_SHOWN = 5


def imagenet(root: str | None = None, cache_dir: str | None = None, cache_gib: float = 200.0) -> Source:
    """ImageNet, or what is built as it: the form is recognised.

    * An ImageFolder tree, also in ILSVRC's own layout, where val may be one folder with a list of labels.
    * Tar shards: those of fvit-prepare, or WebDataset's, as in ``timm/imagenet-1k-wds``.
    * Parquet files, as in ``ILSVRC/imagenet-1k``.

    Args:
        root: a folder; for shards and Parquet also a URL (s3://, gs://, https://, hf://datasets/…).
        cache_dir: where indices and fetched files are kept; None: $FVIT_CACHE, else ~/.cache/fvit.
        cache_gib: bound of the fetched files, in GiB.

    Raises:
        FileNotFoundError: `root` does not exist, or a split has no image.
        DataError: `root` is None or holds none of the forms, or what it holds is damaged.
    """
    if root is None:
        raise DataError(f"data=imagenet needs data.root: a folder, or the URL of one, that holds {_FORMS}")
    if "://" not in root:
        existing_folder(root)
    where = open_storage(root, cache_dir, cache_gib)
    source = _open_folders(where.path) if isinstance(where, LocalStorage) else None
    return source or _open_files(where, Path(cache_dir or default_cache_dir()).expanduser())


def _open_folders(root: Path) -> Source | None:
    """The source of a folder a class; None if train has no folders."""
    train = next((root / name for name in _TRAIN if _has_folders(root / name)), None)
    if train is None or (root / manifest.NAME).is_file():
        return None
    val = next((root / name for name in _VAL if (root / name).is_dir()), None)
    if val is None:
        raise DataError(f"{train} has the training images, and {root} no folder {' or '.join(_VAL)} for validation")
    names = image_names(val)
    if not names:
        return tree(train, val)
    if _has_folders(val):
        raise DataError(f"{val} holds both folders and images ({names[0]}, …): move one or the other away")
    classes = class_folders(train)
    around = [val, *(folder for folder in val.parents if folder == root or root in folder.parents)]
    labels = ground_truth([spot for folder in around for spot in (folder, folder / DEVKIT)], names, classes)
    return Source(labelled_tree(train, classes), FileImages(val, [listing("", names)], labels), classes)


def _has_folders(folder: Path) -> bool:
    if not folder.is_dir():
        return False
    with os.scandir(folder) as entries:
        return any(entry.is_dir() and not entry.name.startswith(".") for entry in entries)


def _open_files(where: Storage, cache: Path) -> Source:
    """The source of files that hold many images each."""
    names = [file.name for file in where.files([".tar", ".parquet", manifest.NAME])]
    tars, parquets = ([name for name in names if name.endswith(suffix)] for suffix in (".tar", ".parquet"))
    if manifest.NAME in names:
        return Source(*open_shards(where, cache))
    if archives := [name for name in tars if _ARCHIVE.search(name)]:
        raise DataError(
            f"{where.root} holds archives as ILSVRC hands them out ({_some(archives)}): unpack them, "
            "the images of a class into train/CLASS, those of validation into val, and the devkit beside"
        )
    if tars and parquets:
        raise DataError(f"{where.root} holds both {_some(tars)} and {_some(parquets)}: name the folder of one of them")
    if tars:
        return Source(*open_shards(where, cache))
    if parquets:
        return Source(*open_parquet(where, cache))
    found = os.listdir(where.path) if isinstance(where, LocalStorage) else [file.name for file in where.files([""])]
    raise DataError(f"{where.root} holds no {_FORMS}; it holds {_some(sorted(found)) or 'nothing'}")


def _some(names: list[str]) -> str:
    return ", ".join(names[:_SHOWN]) + (", …" if len(names) > _SHOWN else "")
