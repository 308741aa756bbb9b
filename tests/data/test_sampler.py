from itertools import chain

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from fvit.data.sampler import ShuffledShare

quick = settings(deadline=None, derandomize=True, database=None, max_examples=100)
SIZES = st.integers(1, 60)
WORLDS = st.integers(1, 4)
REPEATS = st.integers(1, 4)


def share(num_images, world=1, rank=0, epoch=0, **options):
    sampler = ShuffledShare(num_images, world, rank, **options)
    sampler.set_epoch(epoch)
    drawn = list(sampler)
    assert len(drawn) == len(sampler)
    assert all(type(index) is int for index in drawn)
    return drawn


@quick
@given(num_images=SIZES, world=WORLDS, repeats=REPEATS, epoch=st.integers(0, 3), seed=st.integers(0, 3))
def test_ranks_share_out_one_order(num_images, world, repeats, epoch, seed):
    options = dict(epoch=epoch, seed=seed, num_repeats=repeats)
    whole = share(num_images, **options)
    shares = [share(num_images, world, rank, **options) for rank in range(world)]
    assert len({len(each) for each in shares}) == 1
    together = list(chain.from_iterable(zip(*shares, strict=True)))
    assert together == whole[: num_images // world * world]


@quick
@given(num_images=SIZES, repeats=REPEATS)
def test_an_order_holds_each_image_drawn_as_often_as_asked(num_images, repeats):
    whole = share(num_images, num_repeats=repeats)
    assert len(whole) == num_images
    runs = [whole[start : start + repeats] for start in range(0, num_images, repeats)]
    assert all(len(set(run)) == 1 for run in runs), "repeats lie side by side, and so on different ranks"
    assert len({run[0] for run in runs}) == len(runs)
    assert set(whole) <= set(range(num_images))


@pytest.mark.parametrize("repeats", [1, 3])
def test_the_order_is_a_function_of_seed_and_epoch(repeats):
    def orders():
        return [share(50, seed=seed, epoch=epoch, num_repeats=repeats) for seed in (0, 1) for epoch in (0, 1)]

    assert len({tuple(order) for order in orders()}) == 4
    assert orders() == orders()


def test_all_images_come_first_equally_often():
    """A shuffle, and no rotation or the like."""
    firsts = [share(5, epoch=epoch)[0] for epoch in range(1000)]
    assert all(150 < firsts.count(image) < 250 for image in range(5))


@quick
@given(num_images=SIZES, per_step=st.sampled_from([4, 8]), repeats=REPEATS)
def test_a_step_takes_the_same_images_on_any_number_of_ranks(num_images, per_step, repeats):
    steps = []
    for world in (1, 2, 4):
        shares = [share(num_images, world, rank, num_repeats=repeats) for rank in range(world)]
        # In accumulated passes or at once: a rank takes the next places of its share.
        size = per_step // world
        starts = range(0, num_images // per_step * size, size)
        steps.append([sorted(chain.from_iterable(each[i : i + size] for each in shares)) for i in starts])
    assert steps[0] == steps[1] == steps[2]
