"""The torch dataset of a set of images, with what happens in loader workers: read, transform, collate."""

import os
import signal
import threading
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import NamedTuple

import torch
from torch import Tensor
from torch.utils.data import Dataset, default_collate
from torch.utils.data.dataloader import _MultiProcessingDataLoaderIter

from fvit.data.faults import Fault, attempt
from fvit.data.images import BadImage, DataError, Images
from fvit.data.seeding import SampleKey, generator
from fvit.data.transforms.draws import Draw, Draws

Transform = Callable[..., Tensor]

# Unset in a loader that cannot start for want of shared memory, whose __del__ would print a traceback because of it.
_MultiProcessingDataLoaderIter._shutdown = True

# Clusters, launchers and a user's `kill` send these to every process of a run.
_GROUP_SIGNALS = {signal.SIGTERM, signal.SIGUSR1} if hasattr(signal, "sigwaitinfo") else set()


class Sample(NamedTuple):
    """One image, uint8 [H, W, 3] or patches [N, 3 P² + 3], and its label; without pixels if it could not be read."""

    pixels: Tensor | None
    label: int
    key: SampleKey
    faults: tuple[Fault, ...] = ()


class Batch(NamedTuple):
    """A batch on its way from the loader to the device."""

    images: Tensor  # uint8 [B, H, W, 3], or patches [B, N, 3 P² + 3]
    labels: Tensor  # int64 [B]
    epochs: Tensor  # int64 [B]
    positions: Tensor  # int64 [B], in the epoch
    faults: tuple[Fault, ...]
    draws: Draws = Draws()


@dataclass(eq=False)
class ImageDataset(Dataset):
    """Transformed images, indexed by `SampleKey`.

    The seed and the key determine all randomness of `transform`, which maps an encoded image and a generator to uint8
    [H, W, 3]. With `replace`, the next good image replaces a damaged one, which keeps training batches equal in size;
    after more than `skip_limit` damaged ones in a row there is none. Without it, damaged images are left out. Either
    way, the batch reports them.
    """

    images: Images
    transform: Transform
    seed: int
    replace: bool
    skip_limit: int = 100

    def __len__(self) -> int:
        return len(self.images)

    def __getitem__(self, key: SampleKey) -> Sample:
        faults: list[Fault] = []
        for offset in range(min(len(self.images), self.skip_limit + 1) if self.replace else 1):
            index = (key.index + offset) % len(self.images)
            try:
                data = attempt(lambda index=index: self.images.read(index))
                pixels = self.transform(data, generator(self.seed, "image", key.epoch, key.position))
                return Sample(pixels, int(self.images.labels[index]), key, tuple(faults))
            except (BadImage, OSError) as error:
                faults.append(self._fault(index, error))
            except DataError as error:
                faults.append(self._fault(index, error, fatal=True))
                break
        if self.replace and len(faults) == len(self.images):
            reason = f"{faults[-1].reason}; none of the {len(faults)} training images can be read"
            faults[-1] = faults[-1]._replace(reason=reason, fatal=True)
        return Sample(None, -1, key, tuple(faults))

    def _fault(self, index: int, error: Exception, fatal: bool = False) -> Fault:
        try:
            where = self.images.locate(index)
        except (OSError, DataError):  # the file with the name is damaged as well
            where = f"image {index}"
        return Fault(where, str(error).removeprefix(where).lstrip(": "), fatal)


def collate(samples: Sequence[Sample], draw: Draw | None = None) -> Batch:
    """Make a batch of the samples that have pixels, with what `draw` makes of their keys, height and width."""
    good = [sample for sample in samples if sample.pixels is not None]
    # torch's collation writes to memory that worker and trainer share.
    images = default_collate([sample.pixels for sample in good]) if good else torch.empty(0, 0, 0, 3, dtype=torch.uint8)
    numbers = [(sample.label, sample.key.epoch, sample.key.position) for sample in good]
    labels, epochs, positions = torch.tensor(numbers, dtype=torch.int64).reshape(-1, 3).T.contiguous()
    faults = tuple(fault for sample in samples for fault in sample.faults)
    keys = [(sample.key.epoch, sample.key.position) for sample in good]
    draws = draw(keys, *images.shape[1:3]) if draw and good else Draws()
    return Batch(images, labels, epochs, positions, faults, draws)


def ignore_group_signals(worker_id: int) -> None:
    """Let only its parent end a loader worker: after a SIGTERM to all, the trainer needs batches up to the last step.

    Has no effect where the system does not report who sent a signal (macOS, Windows).
    """
    if not _GROUP_SIGNALS:
        return
    # Python handlers do not see the sender, and torch's own ends the worker whoever sent the signal.
    signal.pthread_sigmask(signal.SIG_BLOCK, _GROUP_SIGNALS)
    threading.Thread(target=_exit_when_parent_asks, name="signals", daemon=True).start()


def _exit_when_parent_asks() -> None:
    while True:
        received = signal.sigwaitinfo(_GROUP_SIGNALS)
        if received.si_signo == signal.SIGTERM and received.si_pid == os.getppid():
            os._exit(0)
