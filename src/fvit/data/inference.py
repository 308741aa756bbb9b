"""Unlabelled images for prediction: find the files, load them in batches, and name the classes."""

import fnmatch
import glob
import re
from collections.abc import Iterator, Mapping, Sequence
from http.client import HTTPException
from pathlib import Path
from typing import Any, NamedTuple
from urllib.request import Request, urlopen

import numpy as np
import torch
from timm.data import ImageNetInfo
from torch import Tensor
from torch.utils.data import DataLoader

from fvit.config.cores import usable_cores
from fvit.data.dataset import ImageDataset, collate
from fvit.data.faults import Fault
from fvit.data.formats import decode
from fvit.data.formats.files import FileImages, list_images
from fvit.data.images import DataError, Images
from fvit.data.listing import report
from fvit.data.sampler import EvalSampler
from fvit.data.sources.base import nearest_sibling
from fvit.data.storage.base import redact
from fvit.data.transforms.batch import BatchTransform
from fvit.data.transforms.five_crop import FiveCrop
from fvit.data.transforms.image import EvalTransform

# With fewer batches than this, starting worker processes takes longer than loading the images.
_MIN_BATCHES_FOR_WORKERS = 4
_STALL_SECONDS = 60.0  # after which a server that sends nothing is given up
_SYNSET = re.compile(r"n\d{8}")


class InferenceBatch(NamedTuple):
    """One batch of unlabelled images."""

    files: list[str]  # paths
    pixels: Tensor  # uint8 [B, H, W, 3], resized and cropped as in validation
    images: Tensor  # the same, normalised, float32 [B, 3, H, W], on the device
    faults: tuple[Fault, ...]  # images that could not be read and are left out of the above


class DownloadedImage(Images):
    """One image, fetched from a URL."""

    def __init__(self, url: str, content: bytes) -> None:
        self.root, self.url, self.content = url.rpartition("/")[0], url, content
        self.labels = np.zeros(1, dtype=np.int32)

    def read(self, index: int) -> bytes:
        return self.content

    def locate(self, index: int) -> str:
        return self.url


def find_images(where: str | Path) -> FileImages | DownloadedImage:
    """The images, sorted by name, of a file, a folder with subfolders, or a pattern such as ``photos/**/*.jpg``.

    In folders and patterns, hidden files and files without an image extension are skipped. A URL is one image.
    """
    if scheme := re.match(r"(\w+)://", str(where)):
        if scheme[1] not in ("http", "https", "file"):
            raise ValueError(
                f"images={where}: {scheme[1]}:// cannot be read here; fetch the images, and name their folder"
            )
        return _download(str(where))
    path = Path(where).expanduser()
    if path.is_file():
        return FileImages(path.parent, [("", [path.name], 0)])
    broken: list[str] = []
    if path.is_dir():
        root, found = path, list_images(path, broken)
        problem = "contains no images"
    elif glob.has_magic(str(path)):
        root, found = _match(path, broken)
        problem = "matches no image files"
    else:
        raise FileNotFoundError(f"images={path} does not exist{nearest_sibling(path)}")
    report(broken)
    if not found:
        raise FileNotFoundError(f"images={path} {problem} (*.jpg, *.png, …)")
    return FileImages(root, found)


def _match(pattern: Path, broken: list[str]) -> tuple[Path, list[tuple[str, list[str], int]]]:
    """The folder above the first wildcard, and in it the matching images by folder.

    Python's glob would follow a link that leads back, up to the limit of the operating system.
    """
    folders = pattern.parts[:-1]
    first = next((i for i, part in enumerate(folders) if glob.has_magic(part)), len(folders))
    root, parts = Path(*folders[:first]), pattern.parts[first:]
    if not root.is_dir():
        return root, []
    listed = list_images(root, broken, depth=None if "**" in parts else len(parts))
    chosen = [
        (folder, [name for name in names if _matches((*Path(folder).parts, name), parts)], 0)
        for folder, names, _ in listed
    ]
    return root, [folder for folder in chosen if folder[1]]


def _matches(path: Sequence[str], pattern: Sequence[str]) -> bool:
    """Whether the parts of a path match those of a pattern, in which ``**`` stands for any number of folders."""
    if not pattern:
        return not path
    if pattern[0] == "**":
        return _matches(path, pattern[1:]) or (bool(path) and _matches(path[1:], pattern))
    return bool(path) and fnmatch.fnmatchcase(path[0], pattern[0]) and _matches(path[1:], pattern[1:])


def _download(url: str) -> DownloadedImage:
    try:
        # Some servers refuse the agent that Python names by default.
        with urlopen(Request(url, headers={"User-Agent": "fvit"}), timeout=_STALL_SECONDS) as answer:
            return DownloadedImage(redact(url), answer.read())
    except (OSError, HTTPException, ValueError) as error:
        raise DataError(f"images={redact(url)} could not be fetched: {error}") from None


def inference_batches(
    images: Images,
    trained: Mapping[str, Any],
    batch_size: int,
    num_workers: int | None,
    device: torch.device,
    crops: int = 1,
) -> Iterator[InferenceBatch]:
    """Load every image once, in order, with one worker per core by default if there are enough images.

    `trained` are the DataModule's hyperparameters from the checkpoint: image size, crop, interpolation, normalisation.
    With five `crops` an image is that of `FiveCrop`.
    """
    kind = FiveCrop if crops == 5 else EvalTransform
    transform = kind(
        decode.choose(),
        trained["img_size"],
        trained["crop_pct"],
        trained["interpolation"],
        trained.get("crop_mode", "center"),  # checkpoints of earlier versions do not have it
    )
    normalise = BatchTransform(0, trained["mean"], trained["std"], {}, {}, seed=0)
    if num_workers is None:
        num_workers = usable_cores() if len(images) > _MIN_BATCHES_FOR_WORKERS * batch_size else 0
    dataset = ImageDataset(images, transform, seed=0, replace=False)
    sampler = EvalSampler(len(images))
    # From pinned memory, a copy to a GPU does not keep the host from its next image.
    options = {"num_workers": num_workers, "pin_memory": device.type == "cuda"}
    for batch in DataLoader(dataset, batch_size, sampler=sampler, collate_fn=collate, **options):
        files = [images.locate(index) for index in batch.positions.tolist()]
        copied = batch.images.to(device, non_blocking=True)
        normalised, _ = normalise(batch._replace(images=copied), False, torch.float32)
        yield InferenceBatch(files, batch.images, normalised, batch.faults)


def display_names(classes: Sequence[str] | None, num_outputs: int) -> list[str]:
    """A readable name for each output of the head: ``class N`` without a class name; WordNet IDs with English words."""
    names = [*(classes or ()), *(f"class {index}" for index in range(len(classes or ()), num_outputs))]
    if not all(_SYNSET.fullmatch(name) for name in names):
        return names
    words = ImageNetInfo("imagenet-22k").label_descriptions(as_dict=True)
    return [f"{name} {words[name].partition(',')[0]}" if name in words else name for name in names]
