import random

import numpy as np
import pytest
import torch
from fvit.data.sources.fake import fake

from fvit.data.dataset import ImageDataset
from fvit.data.formats.decode import Decoder
from fvit.data.seeding import SampleKey, generator, global_generators
from fvit.data.transforms.image import TrainTransform

RAND_AUGMENT = "rand-m9-mstd0.5-inc1"


def loaded(seed=0, auto_augment=RAND_AUGMENT):
    transform = TrainTransform(Decoder("pil"), 24, auto_augment=auto_augment)
    return ImageDataset(fake(num_images=16, image_size=32).train, transform, seed, replace=True)


def pixels(draw, seed=0, **options):
    return loaded(seed, **options)[draw].pixels


def disturb(seed):
    random.seed(seed)
    np.random.seed(seed)  # noqa: NPY002
    torch.manual_seed(seed)


def states():
    """Of the generators that libraries share: what they draw next follows from these."""
    return random.getstate(), repr(np.random.get_bit_generator().state), torch.get_rng_state().tolist()


# What random numbers are a function of.


def test_a_generator_is_a_function_of_all_that_it_is_given():
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
    assert len(set(first)) == len(first), "(1, 11) and (11, 1) are no less different"


def test_every_process_draws_the_same():
    """Also where it hashes strings otherwise: a number that was drawn elsewhere."""
    assert generator(1, "image", 2, 3).random() == 0.19593369832693175


# Images.


def test_an_image_s_pixels_are_those_of_its_place_in_any_order_of_calls():
    draws = [SampleKey(index, epoch, position) for epoch in (0, 5) for position, index in enumerate((3, 9, 3, 14))]
    disturb(0)
    images = loaded()
    first = {draw: images[draw].pixels for draw in draws}
    for seed in range(1, 4):
        disturb(seed)
        images = loaded()
        for draw in random.sample(draws, len(draws)):
            assert torch.equal(images[draw].pixels, first[draw])


@pytest.mark.parametrize("auto_augment", [None, RAND_AUGMENT])
def test_another_place_gives_other_pixels(auto_augment):
    """Other crops of one image, which repeated augmentation is made of."""
    places = [(SampleKey(3, epoch, position), seed) for epoch in (0, 1) for position in (0, 1, 10) for seed in (0, 1)]
    seen = {pixels(draw, seed, auto_augment=auto_augment).numpy().tobytes() for draw, seed in places}
    assert len(seen) == len(places)


# The generators that others draw from.


@pytest.mark.parametrize("auto_augment", [None, RAND_AUGMENT, "3a"])
def test_the_shared_generators_are_left_as_they_were(auto_augment):
    disturb(5)
    random.gauss(0, 1)  # leaves a second number in the state
    before, images = states(), loaded(auto_augment=auto_augment)
    for position in range(16):
        assert images[SampleKey(position, 0, position)].pixels is not None
        assert states() == before


def test_the_shared_generators_are_seeded_within_and_restored_after_an_error():
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
