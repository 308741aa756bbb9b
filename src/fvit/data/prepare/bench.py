"""What a machine's loader gives, and where its time goes."""

import itertools
import math
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass

import torch
from torch.utils.data import DataLoader, Sampler

from fvit.data.dataset import ImageDataset, collate
from fvit.data.formats.decode import Box, Decoder
from fvit.data.images import Images
from fvit.data.sampler import BatchLayout, Shuffle, TrainSampler
from fvit.data.seeding import SampleKey, generator
from fvit.data.transforms.image import TrainTransform, random_box, resize

RAND_AUGMENT = "rand-m9-mstd0.5-inc1"
_BATCH = 32


@dataclass(frozen=True)
class LoaderSpeed:
    """What was measured.

    Attributes:
        stages: milliseconds an image of each stage, in one process without a loader.
        rates: images/s by the number of loader processes.
        bytes_an_image: on average, as they lie.
    """

    stages: dict[str, float]
    rates: dict[int, float]
    bytes_an_image: float

    @property
    def a_worker(self) -> float:
        """Images/s a loader process, where as many run as there are cores."""
        workers, rate = max(self.rates.items())
        return rate / workers

    def workers_for(self, rate: float) -> int:
        """Loader processes that feed so many images/s, each with a core of its own."""
        return math.ceil(rate / self.a_worker)


def measure(
    images: Images,
    decoder: Decoder,
    img_size: int,
    interpolation: str,
    cores: int,
    seconds: float = 25.0,
    tell: Callable[[str], None] = lambda text: None,
) -> LoaderSpeed:
    """Measure training's loader: random resized crop and flip, and RandAugment apart.

    Args:
        images: taken in a shuffled order, as training does.
        decoder, img_size, interpolation: as in training.
        cores: loader processes of the second measurement; the first has one.
        seconds: in all.
        tell: told what is being measured.
    """
    counts = sorted({1, cores})
    share = seconds / (1 + len(counts))
    tell("each stage alone")
    threads = torch.get_num_threads()
    torch.set_num_threads(1)  # as in a loader's process
    stages, size = _measure_stages(images, decoder, img_size, interpolation, share)
    torch.set_num_threads(threads)
    rates = {}
    for workers in counts:
        tell(f"{workers} loader processes" if workers > 1 else "one loader process")
        rates[workers] = _measure_loader(images, decoder, img_size, interpolation, workers, share)
    return LoaderSpeed(stages, rates, size)


def _measure_stages(
    images: Images, decoder: Decoder, img_size: int, interpolation: str, seconds: float
) -> tuple[dict[str, float], float]:
    names = ("reading", "decoding", "resizing", "flipping", "collating", "RandAugment")
    spent = dict.fromkeys(names, 0.0)
    augment = TrainTransform(decoder, img_size, auto_augment=RAND_AUGMENT, interpolation=interpolation).augment
    dataset = ImageDataset(images, lambda data, rng: data, seed=0, replace=True)
    size = count = 0
    samples = []
    end = time.perf_counter() + seconds
    for number, draw in enumerate(_Endless(images)):
        if time.perf_counter() > end:
            break
        rng = generator(0, "bench", 0, number)

        def choose(width: int, height: int, rng=rng) -> Box:
            return random_box(width, height, (0.08, 1.0), (3 / 4, 4 / 3), rng)

        ticks = [time.perf_counter()]
        sample = dataset[draw]
        ticks.append(time.perf_counter())
        crop = decoder(sample.pixels, choose)
        ticks.append(time.perf_counter())
        pixels = resize(crop, img_size, img_size, interpolation)
        ticks.append(time.perf_counter())
        if number % 2:
            pixels = pixels.flip(1)
        ticks.append(time.perf_counter())
        samples.append(sample._replace(pixels=pixels))
        if len(samples) == _BATCH:
            collate(samples)
            samples.clear()
        ticks.append(time.perf_counter())
        augment(pixels, rng)
        ticks.append(time.perf_counter())
        size += len(sample.pixels) if isinstance(sample.pixels, bytes) else sample.pixels.nbytes
        count += 1
        for name, (before, after) in zip(names, itertools.pairwise(ticks), strict=True):
            spent[name] += after - before
    return {name: 1000 * total / count for name, total in spent.items()}, size / count


def _measure_loader(
    images: Images, decoder: Decoder, img_size: int, interpolation: str, workers: int, seconds: float
) -> float:
    transform = TrainTransform(decoder, img_size, interpolation=interpolation)
    dataset = ImageDataset(images, transform, seed=0, replace=True)
    loader = DataLoader(dataset, _BATCH, sampler=_Endless(images), collate_fn=collate, num_workers=workers)
    batches = iter(loader)
    # The first batches wait for the processes to start, and what they prepare meanwhile comes in a burst.
    for _ in range(3 * workers):
        next(batches)
    start = time.perf_counter()
    count = 0
    for batch in batches:
        count += len(batch.labels)
        if time.perf_counter() - start > seconds:
            break
    return count / (time.perf_counter() - start)


class _Endless(Sampler[SampleKey]):
    """Training's order, epoch after epoch."""

    def __init__(self, images: Images) -> None:
        self.images = images

    def __iter__(self) -> Iterator[SampleKey]:
        layout = BatchLayout(min(_BATCH, len(self.images)))
        for epoch in itertools.count():
            yield from TrainSampler(Shuffle(len(self.images)), layout, epoch=epoch)
