"""Randomness that is a function of (seed, epoch, place in the epoch), and of no worker, rank or order of calls."""

import random
from collections.abc import Iterator
from contextlib import contextmanager
from typing import NamedTuple

import numpy as np
import torch


class SampleKey(NamedTuple):
    """One image of an epoch.

    Attributes:
        index: of the image in its set.
        epoch: from 0.
        position: of the image in the epoch's order; with repeated augmentation an image has several.
    """

    index: int
    epoch: int
    position: int


def generator(seed: int, purpose: str, epoch: int, position: int) -> random.Random:
    """A generator for one purpose at one place."""
    return random.Random(f"{seed} {purpose} {epoch} {position}")


@contextmanager
def global_generators(seed: int) -> Iterator[None]:
    """Seed the generators that libraries share, and leave them as they were: dropout draws from them as well.

    Args:
        seed: 32 bits.
    """
    states = random.getstate(), np.random.get_bit_generator(), torch.get_rng_state()
    random.seed(seed)
    np.random.set_bit_generator(np.random.PCG64(seed))
    torch.default_generator.manual_seed(seed)
    try:
        yield
    finally:
        random.setstate(states[0])
        np.random.set_bit_generator(states[1])
        torch.set_rng_state(states[2])
