"""Unlabelled images for prediction: find the files, load them in batches, and name the classes."""

import glob
import os
import re
from collections import defaultdict
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import torch
from timm.data import ImageNetInfo
from torch import Tensor
from torch.utils.data import DataLoader

from fvit.data.dataset import ImageDataset, collate
from fvit.data.faults import Fault
from fvit.data.formats import decode
from fvit.data.formats.files import FileImages, is_image, list_images
from fvit.data.images import Images
from fvit.data.sampler import EvalSampler
from fvit.data.sources.base import nearest_sibling
from fvit.data.transforms.batch import BatchTransform
from fvit.data.transforms.image import EvalTransform

# With fewer batches than this, starting worker processes takes longer than loading the images.
_MIN_BATCHES_FOR_WORKERS = 4
_SYNSET = re.compile(r"n\d{8}")


class InferenceBatch(NamedTuple):
    """One batch of unlabelled images."""

    files: list[str]  # paths
    pixels: Tensor  # uint8 [B, H, W, 3], resized and cropped as in validation
    images: Tensor  # the same, normalised, float32 [B, 3, H, W], on the device
    faults: tuple[Fault, ...]  # images that could not be read and are left out of the above


def find_images(where: str | Path) -> FileImages:
    """The images, sorted by name, of a file, a folder with subfolders, or a pattern such as ``photos/**/*.jpg``.

    In folders and patterns, hidden files and files without an image extension are skipped.
    """
    path = Path(where).expanduser()
    if path.is_file():
        return FileImages(path.parent, [("", [path.name], 0)])
    if path.is_dir():
        found = list_images(path)
        if not found:
            raise FileNotFoundError(f"images={path} contains no images (*.jpg, *.png, …)")
        return FileImages(path, found)
    if not glob.has_magic(str(path)):
        raise FileNotFoundError(f"images={path} does not exist{nearest_sibling(path)}")
    folders = path.parts[:-1]
    root = Path(*folders[: next((i for i, part in enumerate(folders) if glob.has_magic(part)), len(folders))])
    names = defaultdict(list)
    for match in sorted(glob.glob(str(path), recursive=True)):
        folder, name = os.path.split(os.path.relpath(match, root))
        if is_image(name) and os.path.isfile(match):
            names[folder].append(name)
    if not names:
        raise FileNotFoundError(f"images={path} matches no image files (*.jpg, *.png, …)")
    return FileImages(root, [(folder, names[folder], 0) for folder in sorted(names)])


def inference_batches(
    images: Images, trained: Mapping[str, Any], batch_size: int, num_workers: int | None, device: torch.device
) -> Iterator[InferenceBatch]:
    """Load every image once, in order, with one worker per core by default if there are enough images.

    `trained` are the DataModule's hyperparameters from the checkpoint: image size, crop, interpolation, normalisation.
    """
    transform = EvalTransform(decode.choose(), trained["img_size"], trained["crop_pct"], trained["interpolation"])
    normalise = BatchTransform(0, trained["mean"], trained["std"], {}, {}, seed=0)
    if num_workers is None:
        num_workers = os.cpu_count() or 1 if len(images) > _MIN_BATCHES_FOR_WORKERS * batch_size else 0
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
