"""Loader processes: how many, and the shared memory through which they send batches."""

import logging
import shutil
from pathlib import Path

from fvit.config.cores import usable_cores

log = logging.getLogger(__name__)

PREFETCH_FACTOR = 2
"""Batches that each loader process prepares in advance, unless it is set: torch's default."""

_MOST = 32  # more are rarely of use, and each takes memory: set them by hand
_SHARED = Path("/dev/shm")  # where torch puts tensors that processes share


def choose_workers(asked: int | str, ranks: int) -> int:
    """The loader processes of one rank.

    Args:
        asked: their number, or ``auto`` for the cores that this process may use, divided among the ranks of this
            machine, less one for the rank itself; at least 1 and at most 32.
        ranks: ranks on this machine.
    """
    return min(_MOST, max(1, usable_cores() // ranks - 1)) if asked == "auto" else int(asked)


def warn_of_shared_memory(workers: int, prefetch_factor: int, batch_bytes: int, ranks: int) -> None:
    """Warn if the batches that loader processes prepare do not fit into shared memory: a write beyond it kills them.

    Args:
        workers: loader processes per rank.
        prefetch_factor: batches that each of them prepares.
        batch_bytes: of one batch.
        ranks: ranks on this machine.
    """
    if not workers or not _SHARED.is_dir():
        return
    needed, free = workers * prefetch_factor * batch_bytes * ranks, shutil.disk_usage(_SHARED).free
    if needed > free:
        log.warning(
            "the loader processes prepare up to %.2g GiB of images in %s, which has %.2g GiB left (%d processes × %d "
            "batches × %d ranks). Give the container more, docker run --shm-size=%dg, or use a smaller "
            "data.num_workers or data.prefetch_factor",
            *(needed / 2**30, _SHARED, free / 2**30, workers, prefetch_factor, ranks, -(-2 * needed // 2**30)),
        )
