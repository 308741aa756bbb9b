"""Further test sets for models of ImageNet-1k, in the folders that their authors distribute; for evaluation alone.

The classes are WordNet IDs, by which a model's outputs are found: of the 200 classes of A and R, these outputs alone
are compared, as in the papers. timm has the lists, and the labels of ReaL.
"""

import json
import re
from collections.abc import Mapping
from dataclasses import replace
from importlib.resources import files
from pathlib import Path

import numpy as np

from fvit.data.formats.files import FileImages, class_folders, list_tree
from fvit.data.images import DataError, Images, Subset
from fvit.data.listing import some
from fvit.data.sources.base import Source, existing_folder
from fvit.data.sources.imagenet import imagenet

_NUMBER = re.compile(r"ILSVRC2012_val_(\d{8})")


def imagenet_v2(root: str | Path | None = None) -> Source:
    """ImageNetV2 (Recht et al., arXiv:1902.10811): folders 0 … 999, the classes in the order of their WordNet IDs."""
    classes = _synsets("imagenet")
    # Sorted as text, as torchvision's ImageFolder would do, folder 10 came before 2.
    return _test_set("imagenet_v2", root, {str(index): name for index, name in enumerate(classes)})


def imagenet_a(root: str | Path | None = None) -> Source:
    """ImageNet-A (Hendrycks et al., arXiv:1907.07174): natural adversarial examples of 200 classes."""
    return _test_set("imagenet_a", root, {name: name for name in _synsets("imagenet_a")})


def imagenet_r(root: str | Path | None = None) -> Source:
    """ImageNet-R (Hendrycks et al., arXiv:2006.16241): renditions of 200 classes."""
    return _test_set("imagenet_r", root, {name: name for name in _synsets("imagenet_r")})


def imagenet_sketch(root: str | Path | None = None) -> Source:
    """ImageNet-Sketch (Wang et al., arXiv:1905.13549): sketches of all 1,000 classes."""
    return _test_set("imagenet_sketch", root, {name: name for name in _synsets("imagenet")})


def imagenet_real(root: str | None = None, cache_dir: str | None = None) -> Source:
    """ImageNet's validation images with the labels of ReaL as well (Beyer et al., arXiv:2006.07159).

    Args:
        root: a folder with a subfolder per class of the validation images, or what `imagenet` takes; the images have
            ILSVRC's file names.
        cache_dir: as for `imagenet`.
    """
    classes = _synsets("imagenet")
    if root is not None and "://" not in root and set(classes) <= set(class_folders(existing_folder(root))):
        source = _test_set("imagenet_real", root, {name: name for name in classes})
    else:
        source = imagenet(root, cache_dir)
    if unknown := sorted(set(classes) - set(source.classes)):
        raise DataError(f"data.name=imagenet_real needs ImageNet's 1,000 classes; {root} lacks {some(unknown)}")
    labels = json.loads(_info("imagenet_real_labels.json"))
    order = [source.classes.index(name) for name in classes]
    numbers = [_number(source.val, index) - 1 for index in range(len(source.val))]
    return replace(source, real=[[order[label] for label in labels[number]] for number in numbers])


def _test_set(name: str, root: str | Path | None, classes: Mapping[str, str]) -> Source:
    """A source of validation images alone, with a class by name of its folder."""
    if root is None:
        raise DataError(f"data.name={name} needs data.root: the folder that contains {', '.join([*classes][:3])}, …")
    path = existing_folder(root)
    found = set(class_folders(path))
    for problem, names in (("lacks", classes.keys() - found), ("has besides", found - classes.keys())):
        if names:
            raise DataError(
                f"data.root={path} is not {name}, which has {len(classes)} folders, {', '.join([*classes][:2])} and so "
                f"on: it {problem} {some(sorted(names))}"
            )
    images: FileImages = list_tree(path, list(classes))
    return Source(Subset(images, np.zeros(0, dtype=np.int64)), images, list(classes.values()))


def _number(images: Images, index: int) -> int:
    """The number in ILSVRC's name of a validation image, from 1."""
    where = images.locate(index)
    if not (match := _NUMBER.search(where)):
        raise DataError(
            f"{where} has no number: the labels of ReaL go with the file names of ILSVRC, ILSVRC2012_val_00000001.JPEG"
        )
    return int(match[1])


def _synsets(name: str) -> list[str]:
    return _info(f"{name}_synsets.txt").split()


def _info(name: str) -> str:
    """A text of timm's, whose own reader of ReaL takes whole batches of all images in order."""
    return files("timm.data").joinpath("_info", name).read_text(encoding="utf-8")
