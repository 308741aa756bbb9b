import random

import numpy as np
import pytest
import torch

from fvit.data.dataset import ImageDataset
from fvit.data.formats.decode import Decoder
from fvit.data.seeding import SampleKey, generator, global_generators
from fvit.data.sources.builtin import fake
from fvit.data.transforms.image import TrainTransform

RAND_AUGMENT = "rand-m9-mstd0.5-inc1"


def dataset(seed=0, auto_augment=RAND_AUGMENT):
    transform = TrainTransform(Decoder("pil"), 24, auto_augment=auto_augment)
    return ImageDataset(fake(num_images=16, image_size=32).train, transform, seed, replace=True)


def pixels(key, seed=0, **options):
    return dataset(seed, **options)[key].pixels


def disturb(seed):
    random.seed(seed)
    np.random.seed(seed)  # noqa: NPY002
    torch.manual_seed(seed)


def states():
    """Of the global generators."""
    return random.getstate(), repr(np.random.get_bit_generator().state), torch.get_rng_state().tolist()


def test_generator_is_a_function_of_its_arguments():
    keys = [
        (seed, purpose, epoch, position)
        for seed in (0, 1, 11)
        for purpose in ("image", "mix")
        for epoch in (0, 1, 11)
        for position in (0, 1, 11)
    ]
    first = [generator(*key).random() for key in keys]
    disturb(3)
    assert [generator(*key).random() for key in reversed(keys)] == first[::-1]
    assert len(set(first)) == len(first), "including (1, 11) and (11, 1)"


def test_generator_is_the_same_in_every_process():
    """Whatever its hash seed: the number was drawn in another process."""
    assert generator(1, "image", 2, 3).random() == 0.19593369832693175


def test_pixels_depend_on_the_key_alone():
    keys = [SampleKey(index, epoch, position) for epoch in (0, 5) for position, index in enumerate((3, 9, 3, 14))]
    disturb(0)
    images = dataset()
    first = {key: images[key].pixels for key in keys}
    for seed in range(1, 4):
        disturb(seed)
        images = dataset()
        for key in random.sample(keys, len(keys)):
            assert torch.equal(images[key].pixels, first[key])


@pytest.mark.parametrize("auto_augment", [None, RAND_AUGMENT])
def test_another_key_or_seed_gives_other_pixels(auto_augment):
    """As repeated augmentation needs."""
    keys = [(SampleKey(3, epoch, position), seed) for epoch in (0, 1) for position in (0, 1, 10) for seed in (0, 1)]
    seen = {pixels(key, seed, auto_augment=auto_augment).numpy().tobytes() for key, seed in keys}
    assert len(seen) == len(keys)


@pytest.mark.parametrize("auto_augment", [None, RAND_AUGMENT, "3a"])
def test_transforms_leave_global_generators_unchanged(auto_augment):
    disturb(5)
    random.gauss(0, 1)  # which keeps a second number in its state
    before, images = states(), dataset(auto_augment=auto_augment)
    for position in range(16):
        assert images[SampleKey(position, 0, position)].pixels is not None
        assert states() == before


def test_global_generators_are_seeded_and_restored():
    disturb(1)
    before = states()

    def draw():
        with global_generators(9):
            return random.random(), np.random.rand(), torch.rand(()).item()  # noqa: NPY002

    first = draw()
    assert states() == before
    disturb(2)
    assert draw() == first
    before = states()
    with pytest.raises(ZeroDivisionError), global_generators(9):
        torch.rand(5) / (1 // 0)
    assert states() == before
