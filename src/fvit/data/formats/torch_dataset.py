"""The images of a torch dataset: items of an image and the index of its class, as torchvision's have them."""

import logging
import operator
from typing import Any

import numpy as np
from PIL import Image
from torch.utils.data import Subset

from fvit.data.formats.pillow import to_rgb
from fvit.data.images import DataError, Images

log = logging.getLogger(__name__)

# Where torchvision's classes and other people's keep all labels, alone or behind paths: reading them from the items
# would decode every image.
_LABELS, _SAMPLES = ("targets", "labels", "_labels", "y"), ("samples", "_samples")


class DatasetImages(Images):
    """The images of `dataset`, which has a length, and items (image, label).

    An image is one of PIL's, pixels uint8 [H, W] or [H, W, 3], or the bytes of an encoded one.

    Raises:
        DataError: `dataset` is empty, or has other items; `name` says which it is.
    """

    def __init__(self, dataset: Any, name: str) -> None:
        self.dataset, self.name = dataset, name
        if not hasattr(dataset, "__len__") or not hasattr(dataset, "__getitem__") or len(dataset) == 0:
            raise DataError(f"{name} is {_kind(dataset)} without a length or without items")
        item = dataset[0]
        if not isinstance(item, tuple | list) or len(item) != 2:
            raise DataError(f"an item of {name} is {_kind(item)}, but must be an image and the index of its class")
        self._check(0, item[0])
        self.labels = self._read_labels()

    def read(self, index: int) -> bytes | np.ndarray:
        image = self.dataset[index][0]
        self._check(index, image)
        return np.asarray(to_rgb(image)) if isinstance(image, Image.Image) else image

    def locate(self, index: int) -> str:
        return f"image {index} of {self.name}"

    def _check(self, index: int, image: Any) -> None:
        if not is_image(image):
            raise DataError(
                f"{self.locate(index)} is {_kind(image)}, but must be a PIL image, a uint8 array of shape "
                "[height, width, 3] or encoded bytes: leave transforms out, because fvit resizes, augments and "
                "normalises"
            )

    def _read_labels(self) -> np.ndarray:
        """int32 [N]."""
        count = len(self.dataset)
        known = _known_labels(self.dataset)
        ends = [self._label(index) for index in (0, count - 1)]
        # An attribute of that name may mean something else.
        if known is None or len(known) != count or [known[0], known[-1]] != ends:
            log.info("reading the labels of %s from its %d items", self.name, count)
            known = [self._label(index) for index in range(count)]
        return np.asarray(known, dtype=np.int32)

    def _label(self, index: int) -> int:
        label = self.dataset[index][1]
        try:
            return operator.index(label)
        except TypeError:
            raise DataError(
                f"{self.locate(index)} has the label {str(label)[:80]!r}, which is not the index of a class"
            ) from None


def class_names(dataset: Any) -> list[str] | None:
    """The names in ``dataset.classes``, or in that of the dataset of which it is a subset; None if there are none."""
    while isinstance(dataset, Subset) and not hasattr(dataset, "classes"):
        dataset = dataset.dataset
    names = getattr(dataset, "classes", None)
    # torchvision's ImageNet has a tuple of words for each class.
    return None if names is None else [", ".join(name) if isinstance(name, tuple) else str(name) for name in names]


def _known_labels(dataset: Any) -> np.ndarray | None:
    """The labels of all items as far as the dataset keeps them, int64 [N]; None if it does not."""
    if isinstance(dataset, Subset):
        known = _known_labels(dataset.dataset)
        return None if known is None else known[np.asarray(dataset.indices)]
    if getattr(dataset, "target_transform", None) is not None:
        return None
    found = [getattr(dataset, name, None) for name in _LABELS]
    for samples in (getattr(dataset, name, None) for name in _SAMPLES):
        if isinstance(samples, list) and all(isinstance(one, tuple) and len(one) == 2 for one in samples):
            found.append([label for _, label in samples])
    arrays = (np.asarray(labels) for labels in found if labels is not None)
    return next((array for array in arrays if array.ndim == 1 and array.dtype.kind in "iu"), None)


def is_image(value: Any) -> bool:
    """Whether it is an image of PIL, an encoded one, or pixels uint8 [H, W] or [H, W, 3]."""
    if isinstance(value, np.ndarray):
        return value.dtype == np.uint8 and (value.ndim == 2 or (value.ndim == 3 and value.shape[2] == 3))
    return isinstance(value, Image.Image | bytes)


def _kind(value: Any) -> str:
    described = f"{value.dtype} {list(value.shape)}" if hasattr(value, "dtype") and hasattr(value, "shape") else ""
    return f"{type(value).__name__} {described}".strip()
