"""Measuring how fast training images load, and where the time goes."""

import itertools
import math
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from functools import partial

import torch
from timm.layers import to_2tuple
from torch.utils.data import DataLoader

from fvit.data.dataset import ImageDataset, collate
from fvit.data.formats.decode import Decoder
from fvit.data.images import Images
from fvit.data.sampler import BatchLayout, Shuffle, TrainSampler
from fvit.data.seeding import SampleKey, generator
from fvit.data.transforms.image import TrainTransform, random_box, resize

RAND_AUGMENT = "rand-m9-mstd0.5-inc1"
_BATCH = 32


@dataclass(frozen=True)
class LoaderSpeed:
    """The speed of the training loader."""

    stages: dict[str, float]  # milliseconds per image, in one process without a loader
    rates: dict[int, float]  # images/s by number of workers
    bytes_per_image: float

    def workers_for(self, rate: float) -> int:
        """Workers, each with its own core, that supply `rate` images/s."""
        workers, total = max(self.rates.items())
        return math.ceil(rate / (total / workers))


def measure(
    images: Images,
    decoder: Decoder,
    img_size: int | Sequence[int],
    interpolation: str,
    cores: int,
    seconds: float = 25.0,
    show: Callable[[str], None] = lambda text: None,
) -> LoaderSpeed:
    """Measure the training loader with random resized crop and flip, with one worker and with one per core.

    RandAugment is only measured as a stage. `show` is called with what is being measured.
    """
    counts = sorted({1, cores})
    share = seconds / (1 + len(counts))
    show("each stage")
    threads = torch.get_num_threads()
    torch.set_num_threads(1)  # as in a worker
    stages, size = _measure_stages(images, decoder, img_size, interpolation, share)
    torch.set_num_threads(threads)
    rates = {}
    for workers in counts:
        show(f"{workers} worker{'s' if workers > 1 else ''}")
        rates[workers] = _measure_loader(images, decoder, img_size, interpolation, workers, share)
    return LoaderSpeed(stages, rates, size)


def _measure_stages(
    images: Images, decoder: Decoder, img_size: int | Sequence[int], interpolation: str, seconds: float
) -> tuple[dict[str, float], float]:
    """Milliseconds per image for each stage, and mean bytes per image."""
    spent = dict.fromkeys(("reading", "decoding", "resizing", "flipping", "collating", "RandAugment"), 0.0)
    augment = TrainTransform(decoder, img_size, auto_augment=RAND_AUGMENT, interpolation=interpolation).augment
    dataset = ImageDataset(images, lambda data, rng: data, seed=0, replace=True)
    size = count = 0
    samples = []
    last = 0.0

    def lap(stage: str) -> None:
        nonlocal last
        now = time.perf_counter()
        spent[stage] += now - last
        last = now

    end = time.perf_counter() + seconds
    for number, key in enumerate(_endless(images)):
        if (last := time.perf_counter()) > end:
            break
        rng = generator(0, "bench", 0, number)
        sample = dataset[key]
        lap("reading")
        crop = decoder(sample.pixels, partial(random_box, scale=(0.08, 1.0), ratio=(3 / 4, 4 / 3), rng=rng))
        lap("decoding")
        pixels = resize(crop, *to_2tuple(img_size), interpolation)
        lap("resizing")
        if number % 2:
            pixels = pixels.flip(1)
        lap("flipping")
        samples.append(sample._replace(pixels=pixels))
        if len(samples) == _BATCH:
            collate(samples)
            samples.clear()
        lap("collating")
        augment(pixels, rng)
        lap("RandAugment")
        size += len(sample.pixels) if isinstance(sample.pixels, bytes) else sample.pixels.nbytes
        count += 1
    return {stage: 1000 * total / count for stage, total in spent.items()}, size / count


def _measure_loader(
    images: Images,
    decoder: Decoder,
    img_size: int | Sequence[int],
    interpolation: str,
    workers: int,
    seconds: float,
) -> float:
    """Images/s."""
    transform = TrainTransform(decoder, img_size, interpolation=interpolation)
    dataset = ImageDataset(images, transform, seed=0, replace=True)
    batches = iter(DataLoader(dataset, _BATCH, sampler=_endless(images), collate_fn=collate, num_workers=workers))
    # The first batches wait for the workers to start, and those prefetched meanwhile arrive in a burst.
    for _ in range(3 * workers):
        next(batches)
    start = time.perf_counter()
    count = 0
    for batch in batches:
        count += len(batch.labels)
        if time.perf_counter() - start > seconds:
            break
    return count / (time.perf_counter() - start)


def _endless(images: Images) -> Iterator[SampleKey]:
    """The order of training, epoch after epoch."""
    layout = BatchLayout(min(_BATCH, len(images)))
    for epoch in itertools.count():
        yield from TrainSampler(Shuffle(len(images)), layout, epoch=epoch)
