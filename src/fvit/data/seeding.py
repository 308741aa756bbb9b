"""Randomness as a function of (seed, epoch, position), independent of workers, ranks and the order of calls."""

import random
from collections.abc import Iterator
from contextlib import contextmanager
from typing import NamedTuple

import numpy as np
import torch


class SampleKey(NamedTuple):
    """One sample of an epoch."""

    index: int  # of the image in its set
    epoch: int
    position: int  # in the order of the epoch; with repeated augmentation an image has several


def generator(seed: int, purpose: str, epoch: int, position: int) -> random.Random:
    """The generator for one purpose, such as cropping, at one position of an epoch."""
    return random.Random(f"{seed} {purpose} {epoch} {position}")


@contextmanager
def global_generators(seed: int) -> Iterator[None]:
    """Seed the global generators with 32 bits, and restore them afterwards, because dropout uses them as well."""
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
