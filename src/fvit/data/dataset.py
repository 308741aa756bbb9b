"""What a loader's process does: read an image, transform it, put a batch together."""

import os
import signal
import threading
from collections.abc import Callable, Sequence
from typing import NamedTuple

import torch
from torch import Tensor
from torch.utils.data import Dataset, default_collate

from fvit.data.faults import Fault, attempt
from fvit.data.images import BadImage, DataError, Images
from fvit.data.seeding import SampleKey, generator

Transform = Callable[..., Tensor]

# Neighbours of a damaged image that are tried in its place.
_REPLACEMENTS = 16


# Of a worker: what a cluster, a terminal's `kill` or a launcher sends to all processes of a run alike.
_SHARED_SIGNALS = {signal.SIGTERM, signal.SIGUSR1} if hasattr(signal, "sigwaitinfo") else set()


class Sample(NamedTuple):
    """One image of a batch: uint8 [H, W, 3], its label, its place; None where nothing could be read."""

    pixels: Tensor | None
    label: int
    draw: SampleKey
    faults: tuple[Fault, ...] = ()


class Batch(NamedTuple):
    """What travels from the loader to the device.

    Attributes:
        images: uint8 [B, H, W, 3].
        labels: int64 [B].
        epochs, positions: int64 [B], of the draws.
        faults: what could not be used.
    """

    images: Tensor
    labels: Tensor
    epochs: Tensor
    positions: Tensor
    faults: tuple[Fault, ...]


class ImageDataset(Dataset):
    """The images of a set, transformed; indexed by draws.

    In training an image that cannot be used gives its place to the next one that can, so that all batches stay equal.
    In validation it is left out. Either way the batch says so.

    Args:
        images: the set.
        transform: maps encoded bytes and a generator to uint8 [H, W, 3].
        seed: of the run; with a draw it determines what is random.
        replace: training's way.
    """

    def __init__(self, images: Images, transform: Transform, seed: int, replace: bool) -> None:
        self.images, self.transform, self.seed, self.replace = images, transform, seed, replace

    def __len__(self) -> int:
        return len(self.images)

    def __getitem__(self, draw: SampleKey) -> Sample:
        faults: list[Fault] = []
        candidates = range(draw.index, draw.index + (_REPLACEMENTS if self.replace else 1))
        for index in (candidate % len(self.images) for candidate in candidates):
            try:
                data = attempt(lambda index=index: self.images.read(index))
                pixels = self.transform(data, generator(self.seed, "image", draw.epoch, draw.position))
                return Sample(pixels, int(self.images.labels[index]), draw, tuple(faults))
            except (BadImage, OSError) as error:
                faults.append(self._fault(index, error))
            except DataError as error:
                faults.append(self._fault(index, error, fatal=True))
                break
        if self.replace and not faults[-1].fatal:
            faults[-1] = faults[-1]._replace(
                reason=f"{faults[-1].reason}, and so are the {len(faults) - 1} before it", fatal=True
            )
        return Sample(None, -1, draw, tuple(faults))

    def _fault(self, index: int, error: Exception, fatal: bool = False) -> Fault:
        try:
            where = self.images.locate(index)
        except (OSError, DataError):  # the file that would tell is the one that is damaged
            where = f"image {index}"
        return Fault(where, str(error).removeprefix(where).lstrip(": "), fatal)


def collate(samples: Sequence[Sample]) -> Batch:
    """Put samples together; those without pixels are left out."""
    whole = [sample for sample in samples if sample.pixels is not None]
    faults = tuple(fault for sample in samples for fault in sample.faults)
    if whole:
        # torch's collation writes into memory that worker and trainer share.
        images = default_collate([sample.pixels for sample in whole])
    else:
        images = torch.empty(0, 0, 0, 3, dtype=torch.uint8)
    numbers = [(sample.label, sample.draw.epoch, sample.draw.position) for sample in whole]
    labels, epochs, positions = torch.tensor(numbers, dtype=torch.int64).reshape(-1, 3).T.contiguous()
    return Batch(images, labels, epochs, positions, faults)


def ignore_group_signals(worker_id: int) -> None:
    """Have a loader's process end when its parent says so, and not when the whole group is told to.

    The parent still needs it then: for the batches up to the step at which all ranks end. Where the system does not
    tell who has sent a signal (macOS, ShardWindows) nothing is changed.
    """
    if not _SHARED_SIGNALS:
        return
    # A handler of Python's does not get the sender, and one of torch's ends on any but the parent's.
    signal.pthread_sigmask(signal.SIG_BLOCK, _SHARED_SIGNALS)
    threading.Thread(target=_wait_for_parent, name="signals", daemon=True).start()


def _wait_for_parent() -> None:
    while True:
        told = signal.sigwaitinfo(_SHARED_SIGNALS)
        if told.si_signo == signal.SIGTERM and told.si_pid == os.getppid():
            os._exit(0)
