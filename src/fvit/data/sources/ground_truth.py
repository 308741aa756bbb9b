"""The labels of ILSVRC's own validation folder, whose 50,000 images lie side by side."""

import csv
import itertools
import zlib
from collections.abc import Sequence
from pathlib import Path

import numpy as np

from fvit.data.images import DataError

DEVKIT = "ILSVRC2012_devkit_t12/data"
_IDS = "ILSVRC2012_validation_ground_truth.txt"
_META = "meta.mat"


def ground_truth(folders: Sequence[Path], names: Sequence[str], classes: Sequence[str]) -> np.ndarray:
    """The labels, int32 [N], of the files `names`, from the first list found.

    Three lists are known: ``val.txt`` (a line an image: file, and label or WordNet id), ``LOC_val_solution.csv`` (of
    Kaggle: image, and WordNet id with boxes) and the devkit's ``ILSVRC2012_validation_ground_truth.txt`` (a line an
    image in the order of names: ILSVRC's own ids, which meta.mat beside it translates).

    Args:
        folders: to search, in this order.
        names: of the files, sorted.
        classes: WordNet ids in the order of the labels.

    Raises:
        DataError: there is no list, or it does not name each file once with one of the classes.
    """
    readers = {"val.txt": _of_text, "LOC_val_solution.csv": _of_kaggle, _IDS: _of_devkit}
    for folder, (name, read) in itertools.product(folders, readers.items()):
        if (folder / name).is_file():
            return _labels(folder / name, read(folder / name, names), names, classes)
    raise DataError(
        f"{names[0]} and {len(names) - 1:,} others lie without class folders and need a list of their labels: "
        f"{', '.join(readers)} was found in none of {', '.join(map(str, folders))}"
    )


def _of_text(path: Path, names: Sequence[str]) -> list[tuple[str, str]]:
    del names
    lines = [line.split() for line in path.read_text(encoding="utf-8").splitlines() if line.strip()]
    for number, line in enumerate(lines, 1):
        if len(line) != 2:
            raise DataError(f"{path}, entry {number}: '{' '.join(line)}' is not a file and its label")
    return [(name, label) for name, label in lines]


def _of_kaggle(path: Path, names: Sequence[str]) -> list[tuple[str, str]]:
    del names
    with path.open(encoding="utf-8", newline="") as file:
        reader = csv.DictReader(file)
        if not {"ImageId", "PredictionString"} <= set(reader.fieldnames or ()):
            raise DataError(f"{path} needs the columns ImageId and PredictionString; it has {reader.fieldnames}")
        return [(row["ImageId"], (row["PredictionString"] or "").partition(" ")[0]) for row in reader]


def _of_devkit(path: Path, names: Sequence[str]) -> list[tuple[str, str]]:
    ids = path.read_text(encoding="utf-8").split()
    if len(ids) != len(names):
        raise DataError(f"{path} has {len(ids):,} lines for {len(names):,} images")
    folders = (path.parent, path.parent / DEVKIT)
    meta = next((folder / _META for folder in folders if (folder / _META).is_file()), None)
    if meta is None:
        raise DataError(f"{path} holds ILSVRC's own ids, and the {_META} that translates them is not beside it")
    wordnet = _wordnet_ids(meta)
    if strangers := sorted(set(ids) - set(wordnet)):
        raise DataError(f"{path}: the id {strangers[0]} is not in {meta}")
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
    if len(pairs) != len(names):
        raise DataError(f"{path} has {len(pairs):,} lines for {len(names):,} images")
    # Some lists leave the suffix away.
    of_image = {Path(name).stem: label for name, label in pairs}
    if unlisted := [name for name in names if Path(name).stem not in of_image]:
        raise DataError(f"{path} does not name {unlisted[0]}, nor {len(unlisted) - 1:,} other images")
    labels = {name: label for label, name in enumerate(classes)}
    numbers = {str(label): label for label in range(len(classes))}
    known = {**numbers, **labels}
    if stranger := next((label for label in of_image.values() if label not in known), None):
        raise DataError(
            f"{path}: '{stranger}' is no class of train; labels are its folders' names, or 0 … {len(classes) - 1} in "
            "their sorted order"
        )
    return np.array([known[of_image[Path(name).stem]] for name in names], dtype=np.int32)
