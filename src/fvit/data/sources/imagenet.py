"""ImageNet, in any format in which it is distributed."""

import codecs
import csv
import itertools
import os
import re
import zlib
from collections.abc import Sequence
from pathlib import Path, PurePath

import numpy as np
from pydantic import PositiveFloat

from fvit.config.wording import count
from fvit.data.formats import manifest
from fvit.data.formats.files import EXTENSIONS, FileImages, class_folders, image_names
from fvit.data.formats.parquet import open_parquet
from fvit.data.formats.tar import open_tars
from fvit.data.images import DataError
from fvit.data.listing import is_folder, some
from fvit.data.sources.base import Source, existing_folder
from fvit.data.sources.folder import training_tree, tree
from fvit.data.storage import open_storage
from fvit.data.storage.base import LocalStorage, Storage
from fvit.data.storage.cache import cache_dir as default_cache_dir

_TRAIN = ("train", "Data/CLS-LOC/train", "ILSVRC/Data/CLS-LOC/train", "ILSVRC2012_img_train")
_VAL = ("val", "Data/CLS-LOC/val", "ILSVRC/Data/CLS-LOC/val", "ILSVRC2012_img_val")
_FORMATS = (
    "train/CLASS/*.JPEG with val/CLASS/*.JPEG or with val/*.JPEG and a list of labels, tar shards, or Parquet files"
)
_DEVKIT, _META = "ILSVRC2012_devkit_t12/data", "meta.mat"
_IDS = "ILSVRC2012_validation_ground_truth.txt"
# The archives that ILSVRC distributes are tar files, but not shards.
_ARCHIVE = re.compile(r"(?:^|/)(?:ILSVRC2012_\w+|n\d{8})\.tar$")


def imagenet(root: str | None = None, cache_dir: str | None = None, cache_gib: PositiveFloat = 200.0) -> Source:
    """ImageNet, or another dataset in one of its formats, which is detected:

    * An ImageFolder tree, or ILSVRC's layout, in which val may be a flat folder with a list of labels.
    * Tar shards: from fvit-prepare, or WebDataset, as in ``timm/imagenet-1k-wds``.
    * Parquet files, as in ``ILSVRC/imagenet-1k``.

    Args:
        root: a folder; for shards and Parquet also a URL (s3://, gs://, https://, hf://datasets/…).
        cache_dir: folder for indices and fetched files; None means $FVIT_CACHE, or ~/.cache/fvit.
        cache_gib: size limit of the fetched files in GiB.
    """
    if root is None:
        raise DataError(f"data=imagenet needs data.root: a folder, or its URL, with {_FORMATS}")
    if "://" not in root:
        existing_folder(root)
    storage = open_storage(root, cache_dir, cache_gib)
    source = _open_folders(storage.path) if isinstance(storage, LocalStorage) else None
    return source or _open_shards(storage, Path(cache_dir or default_cache_dir()).expanduser())


def _open_folders(root: Path) -> Source | None:
    """The source of a tree; None if there is no train folder with subfolders."""
    train = next((root / name for name in _TRAIN if _has_folders(root / name)), None)
    if train is None or (root / manifest.NAME).is_file():
        return None
    val = next((root / name for name in _VAL if is_folder(root / name)), None)
    if val is None:
        raise DataError(f"{train} has the training images, but {root} has no folder {' or '.join(_VAL)}")
    names = image_names(val)
    if not names:
        return tree(train, val)
    if _has_folders(val):
        raise DataError(f"{val} contains both folders and images ({names[0]}, …): move one of them away")
    images, classes = training_tree(train)
    parents = [val, *(folder for folder in val.parents if folder == root or root in folder.parents)]
    labels = ground_truth([folder for parent in parents for folder in (parent, parent / _DEVKIT)], names, classes)
    return Source(images, FileImages(val, [("", names, labels)]), classes)


def _has_folders(folder: Path) -> bool:
    return is_folder(folder) and bool(class_folders(folder))


def _open_shards(storage: Storage, cache: Path) -> Source:
    names = [file.name for file in storage.files([".tar", ".parquet", manifest.NAME])]
    tars, parquets = ([name for name in names if name.endswith(suffix)] for suffix in (".tar", ".parquet"))
    if manifest.NAME in names:
        return Source(*open_tars(storage, cache))
    if archives := [name for name in tars if _ARCHIVE.search(name)]:
        raise DataError(
            f"{storage.root} contains ILSVRC's archives ({some(archives)}): unpack the images of each class into "
            "train/CLASS, those of validation into val, and the devkit next to them"
        )
    if tars and parquets:
        raise DataError(f"{storage.root} contains both {some(tars)} and {some(parquets)}: choose the folder of one")
    if tars:
        return Source(*open_tars(storage, cache))
    if parquets:
        return Source(*open_parquet(storage, cache))
    found = os.listdir(storage.path) if isinstance(storage, LocalStorage) else [f.name for f in storage.files([""])]
    raise DataError(f"{storage.root} must contain {_FORMATS}, but contains {some(sorted(found)) or 'nothing'}")


def ground_truth(folders: Sequence[Path], names: Sequence[str], classes: Sequence[str]) -> np.ndarray:
    """The labels, int32 [N], of files, from the first of these lists that is found:

    * ``val.txt``: lines of a file name and its label or WordNet ID;
    * Kaggle's ``LOC_val_solution.csv``: image, and WordNet ID with boxes;
    * the devkit's ``ILSVRC2012_validation_ground_truth.txt``: lines of ILSVRC's own IDs, by sorted file name, which
      meta.mat in the same folder translates.

    `names` are file names, sorted, and `classes` WordNet IDs in label order.
    """
    readers = {"val.txt": _read_text, "LOC_val_solution.csv": _read_kaggle, _IDS: _read_devkit}
    for folder, (name, read) in itertools.product(folders, readers.items()):
        if (folder / name).is_file():
            return _labels(folder / name, read(folder / name, names), names, classes)
    raise DataError(
        f"{names[0]} and {count(len(names) - 1, 'more image')} are not in class folders and need a list of labels: "
        f"none of {', '.join(map(str, folders))} contains {' or '.join(readers)}"
    )


def _text(path: Path) -> str:
    """The content of a list, with or without a byte-order mark; PowerShell writes UTF-16."""
    content = path.read_bytes()
    encoding = "utf-16" if content.startswith((codecs.BOM_UTF16_LE, codecs.BOM_UTF16_BE)) else "utf-8-sig"
    try:
        return content.decode(encoding)
    except UnicodeDecodeError as error:
        raise DataError(
            f"{path} is not a text in UTF-8 ({error.reason} at byte {error.start}): save it as UTF-8"
        ) from None


def _read_text(path: Path, names: Sequence[str]) -> list[tuple[str, str]]:
    lines = [line.split() for line in _text(path).splitlines() if line.strip()]
    for number, line in enumerate(lines, 1):
        if len(line) != 2:
            raise DataError(f"{path}, line {number}: '{' '.join(line)}' is not a file name and a label")
    return [(name, label) for name, label in lines]


def _read_kaggle(path: Path, names: Sequence[str]) -> list[tuple[str, str]]:
    reader = csv.DictReader(_text(path).splitlines())
    if not {"ImageId", "PredictionString"} <= set(reader.fieldnames or ()):
        raise DataError(f"{path} needs the columns ImageId and PredictionString, but has {reader.fieldnames}")
    return [(row["ImageId"], (row["PredictionString"] or "").partition(" ")[0]) for row in reader]


def _read_devkit(path: Path, names: Sequence[str]) -> list[tuple[str, str]]:
    ids = _text(path).split()
    if len(ids) != len(names):
        raise DataError(f"{path} has {count(len(ids), 'line')} for {count(len(names), 'image')}")
    candidates = (path.parent / _META, path.parent / _DEVKIT / _META)
    meta = next((candidate for candidate in candidates if candidate.is_file()), None)
    if meta is None:
        raise DataError(f"{path} contains ILSVRC's own IDs, which need the devkit's {_META} in the same folder")
    wordnet = _wordnet_ids(meta)
    if unknown := sorted(set(ids) - set(wordnet)):
        raise DataError(f"{path}: the ID {unknown[0]} is not in {meta}")
    return [(name, wordnet[id_]) for name, id_ in zip(names, ids, strict=True)]


def _wordnet_ids(meta: Path) -> dict[str, str]:
    from scipy.io import loadmat
    from scipy.io.matlab import MatReadError

    try:
        synsets = loadmat(meta, variable_names=["synsets"], squeeze_me=True)["synsets"]
        return {str(int(synset["ILSVRC2012_ID"])): str(synset["WNID"]) for synset in synsets}
    except (MatReadError, OSError, zlib.error, ValueError, KeyError, IndexError, TypeError) as error:
        raise DataError(f"{meta} is not the devkit's list of synsets ({error}); unpack the devkit again") from error


def _labels(path: Path, pairs: list[tuple[str, str]], names: Sequence[str], classes: Sequence[str]) -> np.ndarray:
    stems: dict[str, str] = {}
    for name in names:
        if (other := stems.setdefault(_stem(name), name)) != name:
            raise DataError(
                f"{other} and {name} would have one label: {path} names images by what precedes the extension"
            )
    if len(pairs) != len(names):
        raise DataError(f"{path} has {count(len(pairs), 'line')} for {count(len(names), 'image')}")
    by_stem = {_stem(name): label for name, label in pairs}
    if missing := [name for name in names if _stem(name) not in by_stem]:
        raise DataError(f"{path} has no label for {missing[0]} and {count(len(missing) - 1, 'more image')}")
    labels = {str(label): label for label in range(len(classes))} | {name: i for i, name in enumerate(classes)}
    if unknown := next((label for label in by_stem.values() if label not in labels), None):
        raise DataError(
            f"{path}: '{unknown}' is not a class of train; labels are the names of its folders, or their indices "
            f"0 … {len(classes) - 1} in sorted order"
        )
    return np.array([labels[by_stem[_stem(name)]] for name in names], dtype=np.int32)


def _stem(name: str) -> str:
    """The file name without an image extension, which some lists omit."""
    path = PurePath(name)
    return path.stem if path.suffix.lower() in EXTENSIONS else path.name
