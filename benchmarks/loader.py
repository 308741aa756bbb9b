"""Speed of reading, decoding and cropping images, compared with torchvision, timm and bare decoding.

    python benchmarks/loader.py                     # on generated images
    python benchmarks/loader.py --images DIR        # on a folder CLASS/*.JPEG, or a tar of one
    python benchmarks/loader.py --workers 2         # with two loader processes instead of the main one

All contenders take turns in one process on one thread for several rounds; a ratio is the median of the rounds' ratios.
On a shared machine, absolute rates mean little, but ratios from one run do.
"""

import argparse
import io
import statistics
import tarfile
import tempfile
import time
import warnings
from collections.abc import Callable, Sequence
from contextlib import nullcontext
from pathlib import Path

import numpy as np
import simplejpeg
import torch
from PIL import Image
from rich.console import Console
from rich.table import Table
from timm.data import ImageDataset, create_loader
from timm.data.auto_augment import NAME_TO_OP
from torch.utils.data import DataLoader
from torchvision import transforms
from torchvision.datasets import ImageFolder
from torchvision.transforms import InterpolationMode

from fvit.data import ImageDataModule
from fvit.data.formats.decode import choose
from fvit.data.formats.turbo import library
from fvit.data.prepare.write import Settings, write
from fvit.data.sources import load
from fvit.data.transforms.image import EvalTransform
from fvit.data.transforms.rand_augment import posterize

BATCH = 25
CROP = {"no_aug": False, "scale": (0.08, 1.0), "ratio": (3 / 4, 4 / 3), "hflip": 0.5}
RAND = "rand-m9-mstd0.5-inc1"
Contender = Callable[[], int]


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--images", type=Path, help="a folder CLASS/*.JPEG, or a tar of one")
    parser.add_argument("--workers", type=int, default=0)
    parser.add_argument("--rounds", type=int, default=9)
    options = parser.parse_args()
    torch.set_num_threads(1)
    warnings.filterwarnings("ignore")
    with tempfile.TemporaryDirectory() as scratch:
        tree = make_tree(Path(scratch), options.images)
        contenders = build(tree, Path(scratch), options.workers)
        rates = take_turns(contenders, options.rounds)
    report(rates, options.workers)


def make_tree(scratch: Path, images: Path | None) -> Path:
    """A folder with train/CLASS/*.JPEG and val -> train."""
    tree = scratch / "tree"
    train = tree / "train"
    train.mkdir(parents=True)
    if images is None:
        make_images(train)
    elif images.is_file():
        with tarfile.open(images) as archive:
            archive.extractall(train, filter="data")
    else:
        train.rmdir()
        train.symlink_to(images.resolve())
    (tree / "val").symlink_to(train.resolve())
    return tree


def make_images(folder: Path, count: int = 200) -> None:
    """JPEGs of about the dimensions and file size of ImageNet's: blurred noise under finer noise."""
    rng = np.random.default_rng(0)
    for number in range(count):
        width, height = (500, 375) if number % 4 else (375, 500)
        coarse = Image.fromarray(rng.integers(0, 256, (height // 20, width // 20, 3), dtype=np.uint8))
        pixels = np.asarray(coarse.resize((width, height), Image.Resampling.BICUBIC)).astype(np.int16)
        pixels += rng.normal(0, 9, (height, width, 1)).astype(np.int16)
        target = folder / f"class{number % 10}" / f"{number:04d}.JPEG"
        target.parent.mkdir(exist_ok=True)
        Image.fromarray(pixels.clip(0, 255).astype(np.uint8)).save(target, quality=92)


def build(tree: Path, scratch: Path, workers: int) -> dict[str, Contender]:
    """The contenders, each of which processes all images once and returns their number."""
    shards, small = (prepare(tree, scratch / name, size) for name, size in (("original", None), ("256", 256)))
    contenders: dict[str, Contender] = {
        "ImageFolder + PIL": image_folder(tree, workers),
        "timm, plain": timm_loader(tree, workers),
        "timm, RandAugment + erasing": timm_loader(tree, workers, auto_augment=RAND, re_prob=0.25, re_mode="pixel"),
    }
    decoders = ["simplejpeg"] + ["turbo"] * (library() is not None)
    for decoder in decoders:
        contenders |= {
            f"{decoder}, tree": ours(tree, workers, decoder),
            f"{decoder}, shards": ours(shards, workers, decoder),
            f"{decoder}, shards, RandAugment": ours(shards, workers, decoder, auto_augment=RAND),
            f"{decoder}, shards of 256": ours(small, workers, decoder),
        }
    if workers == 0:
        encoded = [path.read_bytes() for path in sorted(tree.glob("train/*/*"))]
        for decoder in decoders:
            contenders[f"{decoder}, bare decoding"] = bare(encoded, decoder)
        for size, resized in ((224, 256), (384, 438)):
            contenders[f"PIL, evaluation {resized}/{size}"] = pil_evaluation(encoded, size, resized)
            for decoder in decoders:
                contenders[f"{decoder}, evaluation {resized}/{size}"] = evaluation(encoded, decoder, size, resized)
        contenders["reading, tree"] = reading(tree)
        contenders["reading, shards"] = reading(shards)
    return contenders


def prepare(tree: Path, out: Path, resize: int | None) -> Path:
    """Write shards of the tree."""
    options = {"name": "imagenet", "root": str(tree)}
    settings = Settings(source=options, resize=resize, quality=90, shard_size=50)
    write(
        load(**options), out, settings, workers=0, skip_bad=False, progress=lambda *_: nullcontext(lambda count: None)
    )
    return out


def image_folder(tree: Path, workers: int) -> Contender:
    """As in torchvision's documentation, except that pixels stay uint8."""
    steps = [
        transforms.RandomResizedCrop(224, interpolation=InterpolationMode.BICUBIC),
        transforms.RandomHorizontalFlip(),
        transforms.PILToTensor(),
    ]
    images = ImageFolder(tree / "train", transforms.Compose(steps))
    return over(DataLoader(images, BATCH, shuffle=True, num_workers=workers, persistent_workers=workers > 0))


def timm_loader(tree: Path, workers: int, **augment: object) -> Contender:
    """timm's create_loader, with conversion and normalisation on the CPU."""
    # Without this fix, timm 1.0.31 fails with Pillow 13.
    NAME_TO_OP.update({name: posterize for name in NAME_TO_OP if name.startswith("Posterize")})
    loader = create_loader(
        ImageDataset(str(tree / "train")),
        input_size=(3, 224, 224),
        batch_size=BATCH,
        is_training=True,
        color_jitter=None,
        interpolation="bicubic",
        num_workers=workers,
        persistent_workers=workers > 0,
        use_prefetcher=False,
        **augment,
    )
    return over(loader)


def ours(root: Path, workers: int, decoder: str, auto_augment: str | None = None) -> Contender:
    """Our training loader, without erasing and normalisation, which run on the device."""
    transform = {**CROP, "color_jitter": None, "auto_augment": auto_augment}
    data = ImageDataModule(
        "imagenet",
        img_size=224,
        batch_size=BATCH,
        num_workers=workers,
        decoder=decoder,
        augment={"transform": transform},
        root=str(root),
    )
    return over(data.train_dataloader())


def over(loader: DataLoader) -> Contender:
    """Load an epoch."""
    return lambda: sum(len(batch[0]) for batch in loader)


def each(items: Sequence, work: Callable) -> Contender:
    """Process items one by one, without keeping results, whose allocation would dominate."""

    def run() -> int:
        for item in items:
            work(item)
        return len(items)

    return run


def bare(encoded: list[bytes], decoder: str) -> Contender:
    """Only full decoding, from memory."""
    decode = simplejpeg.decode_jpeg if decoder == "simplejpeg" else choose(decoder)
    return each(encoded, decode)


def pil_evaluation(encoded: list[bytes], size: int, resized: int) -> Contender:
    """Resize and centre crop with torchvision on PIL images."""
    steps = transforms.Compose(
        [
            transforms.Resize(resized, interpolation=InterpolationMode.BICUBIC),
            transforms.CenterCrop(size),
            transforms.PILToTensor(),
        ]
    )
    return each(encoded, lambda data: steps(Image.open(io.BytesIO(data)).convert("RGB")))


def evaluation(encoded: list[bytes], decoder: str, size: int, resized: int) -> Contender:
    """Our evaluation transform."""
    transform = EvalTransform(choose(decoder), size, size / resized)
    return each(encoded, transform)


def reading(root: Path) -> Contender:
    """Only reading, in shuffled order."""
    images = load("imagenet", root=str(root)).train
    order = np.random.default_rng(0).permutation(len(images)).tolist()
    return each(order, images.read)


def take_turns(contenders: dict[str, Contender], rounds: int) -> dict[str, list[float]]:
    """Images/s of each contender in each round, after a warm-up round."""
    rates: dict[str, list[float]] = {name: [] for name in contenders}
    console = Console(stderr=True)
    with console.status("") as status:
        for turn in range(rounds + 1):
            for name, contender in contenders.items():
                status.update(f"round {turn} of {rounds}: {name}")
                started = time.perf_counter()
                count = contender()
                if turn:
                    rates[name].append(count / (time.perf_counter() - started))
    return rates


def report(rates: dict[str, list[float]], workers: int) -> None:
    """Print the rates, and the important ratios."""
    console = Console(width=None if Console().is_terminal else 120)
    table = Table("contender", "images/s, median", title=f"{workers} workers" if workers else "one process")
    for name, values in rates.items():
        table.add_row(name, f"{statistics.median(values):,.0f}")
    console.print(table)
    decoders = [name for name in ("simplejpeg", "turbo") if f"{name}, tree" in rates]
    table = Table("ratio", *decoders)
    for title, ours_, theirs in (
        ("tree, against ImageFolder + PIL", "{}, tree", "ImageFolder + PIL"),
        ("shards, against ImageFolder + PIL", "{}, shards", "ImageFolder + PIL"),
        ("shards, against timm's loader, plain", "{}, shards", "timm, plain"),
        ("shards, against timm's, RandAugment + erasing", "{}, shards, RandAugment", "timm, RandAugment + erasing"),
        ("shards, relative to bare decoding", "{}, shards", "{}, bare decoding"),
        ("shards of 256 q90, against originals", "{}, shards of 256", "{}, shards"),
        ("evaluation 256/224, against PIL", "{}, evaluation 256/224", "PIL, evaluation 256/224"),
        ("evaluation 438/384, against PIL", "{}, evaluation 438/384", "PIL, evaluation 438/384"),
    ):
        if theirs.format(decoders[0]) in rates:
            table.add_row(title, *(ratio(rates, ours_.format(name), theirs.format(name)) for name in decoders))
    console.print(table)
    for name in ("reading, tree", "reading, shards"):
        if name in rates:
            console.print(f"{name}: {1e6 / statistics.median(rates[name]):.0f} µs per image")


def ratio(rates: dict[str, list[float]], ours_: str, theirs: str) -> str:
    """Median and range of the rounds' ratios."""
    ratios = sorted(mine / other for mine, other in zip(rates[ours_], rates[theirs], strict=True))
    return f"{statistics.median(ratios):.2f} ({ratios[0]:.2f} to {ratios[-1]:.2f})"


if __name__ == "__main__":
    main()
