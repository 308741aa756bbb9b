from collections import Counter
from itertools import chain

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from fvit.data.sampler import BatchLayout, EvalSampler, ShardWindows, Shuffle, TrainSampler

quick = settings(deadline=None, derandomize=True, database=None, max_examples=100)
SIZES = st.integers(1, 80)
WORLDS = st.integers(1, 4)
REPEATS = st.integers(1, 4)
LAYOUTS = st.builds(BatchLayout, st.integers(1, 6), st.integers(1, 3), WORLDS)
SHARDS = st.lists(st.integers(1, 12), min_size=1, max_size=12)


def ranks(shuffle, layout, **options):
    """What each rank draws."""
    return [list(TrainSampler(shuffle, layout, rank, **options)) for rank in range(layout.world_size)]


# The order.


@quick
@given(num_images=SIZES, seed=st.integers(0, 3), epoch=st.integers(0, 3))
def test_an_order_is_a_permutation(num_images, seed, epoch):
    order = Shuffle(num_images, seed)(epoch)
    assert sorted(order.tolist()) == list(range(num_images))


@pytest.mark.parametrize("options", [{}, {"num_repeats": 3}, {"windows": ShardWindows(np.full(10, 5), 2)}], ids=str)
def test_the_order_is_a_function_of_seed_and_epoch(options):
    def orders():
        return [tuple(Shuffle(50, seed, **options)(epoch).tolist()) for seed in (0, 1) for epoch in (0, 1)]

    first = orders()
    np.random.seed(3)  # noqa: NPY002
    assert orders() == first
    assert len(set(first)) == 4


def test_all_orders_are_equally_likely():
    """A shuffle, and no rotation or the like."""
    count = Counter(tuple(Shuffle(4)(epoch).tolist()) for epoch in range(2400))
    assert len(count) == 24
    assert all(60 < times < 140 for times in count.values())


@quick
@given(num_images=SIZES, repeats=REPEATS)
def test_an_order_holds_each_image_drawn_as_often_as_asked(num_images, repeats):
    order = Shuffle(num_images, num_repeats=repeats)(0).tolist()
    assert len(order) == num_images
    runs = [order[start : start + repeats] for start in range(0, num_images, repeats)]
    assert all(len(set(run)) == 1 for run in runs), "side by side"
    assert len({run[0] for run in runs}) == len(runs)
    assert set(order) <= set(range(num_images))


# Ranks and micro batches.


def micro_batches(layout, step):
    """The positions of a step: [ranks][micro batches]."""
    each = [layout.positions(range(step, step + 1), rank) for rank in range(layout.world_size)]
    return [positions.reshape(layout.accumulate, layout.batch_size) for positions in each]


def test_positions_are_dealt_out_to_first_micro_batches_and_then_to_second_ones():
    ranks = [batches.tolist() for batches in micro_batches(BatchLayout(2, 2, 2), step=1)]
    assert ranks == [[[8, 12], [10, 14]], [[9, 13], [11, 15]]]


@quick
@given(layout=LAYOUTS, step=st.integers(0, 3))
def test_a_step_is_shared_out_whole(layout, step):
    start = step * layout.global_batch
    found = sorted(np.concatenate([batches.ravel() for batches in micro_batches(layout, step)]).tolist())
    assert found == list(range(start, start + layout.global_batch))
    assert layout.global_batch == layout.batch_size * layout.accumulate * layout.world_size


@quick
@given(layout=LAYOUTS, first=st.integers(0, 3), count=st.integers(0, 3), rank=st.integers(0, 3))
def test_steps_follow_one_another(layout, first, count, rank):
    rank %= layout.world_size
    together = layout.positions(range(first, first + count), rank).tolist()
    assert together == list(
        chain.from_iterable(layout.positions(range(i, i + 1), rank) for i in range(first, first + count))
    )


@quick
@given(halves=st.integers(1, 3), accumulate=st.integers(1, 3), world=WORLDS, step=st.integers(0, 3))
def test_what_lies_half_a_step_apart_is_half_a_micro_batch_apart(halves, accumulate, world, step):
    layout = BatchLayout(2 * halves, accumulate, world)
    for batches in micro_batches(layout, step):
        for batch in batches:
            assert np.array_equal(batch[halves:] - batch[:halves], np.full(halves, layout.global_batch // 2))


@quick
@given(num_images=SIZES, repeats=REPEATS, step=st.integers(0, 2))
def test_a_step_has_the_same_images_on_any_hardware(num_images, repeats, step):
    layouts = [
        BatchLayout(8, 1, 1),
        BatchLayout(4, 2, 1),
        BatchLayout(4, 1, 2),
        BatchLayout(2, 1, 4),
        BatchLayout(1, 2, 4),
        BatchLayout(2, 4, 1),
    ]
    order = Shuffle(num_images, num_repeats=repeats)
    for layout in layouts:
        size = layout.batch_size * layout.accumulate
        drawn = chain.from_iterable(each[step * size : (step + 1) * size] for each in ranks(order, layout))
        if (step + 1) * 8 <= num_images:
            expected = zip(
                order(0)[step * 8 : (step + 1) * 8].tolist(), [0] * 8, range(step * 8, step * 8 + 8), strict=True
            )
            assert sorted(drawn, key=lambda draw: draw.position) == list(expected)
        else:
            assert not list(drawn)


def test_repeats_of_an_image_lie_on_different_ranks():
    drawn = ranks(Shuffle(30, num_repeats=3), BatchLayout(1, 1, 3))
    assert len({tuple(draw.index for draw in each) for each in drawn}) == 1
    assert len({draw.index for draw in drawn[0]}) == len(drawn[0])


# One rank's draws.


@quick
@given(num_images=SIZES, layout=LAYOUTS, seed=st.integers(0, 3), epoch=st.integers(0, 3))
def test_an_image_is_drawn_at_most_once_and_ranks_draw_equally_many(num_images, layout, seed, epoch):
    drawn = ranks(Shuffle(num_images, seed), layout, epoch=epoch)
    assert len({len(each) for each in drawn}) == 1
    everything = [draw.index for draw in chain(*drawn)]
    assert len(set(everything)) == len(everything)
    assert num_images - layout.global_batch < len(everything) <= num_images
    assert all(type(number) is int for draw in chain(*drawn) for number in draw)
    assert {draw.epoch for draw in chain(*drawn)} <= {epoch}
    assert len(TrainSampler(Shuffle(num_images), layout)) == len(drawn[0])


@quick
@given(num_images=SIZES, layout=LAYOUTS, step=st.integers(0, 5), epoch=st.integers(0, 3))
def test_draws_from_a_step_on_are_the_end_of_the_epoch(num_images, layout, step, epoch):
    order, size = Shuffle(num_images), layout.batch_size * layout.accumulate
    whole, rest = ranks(order, layout, epoch=epoch), ranks(order, layout, epoch=epoch, step=step)
    assert rest == [each[step * size :] for each in whole]
    late = TrainSampler(order, layout, epoch=epoch, step=step)
    assert len(late) == len(whole[0]), "Lightning takes the length for that of every epoch"
    late.set_epoch(epoch)
    assert list(late) == rest[0], "the epoch that a run goes on in"
    late.set_epoch(epoch + 1)
    assert list(late) == ranks(order, layout, epoch=epoch + 1)[0], "and then whole ones"


def test_frozen_draws_stay_as_they_are():
    draws = TrainSampler(Shuffle(12), BatchLayout(4), frozen=True)
    first = list(draws)
    draws.set_epoch(1)
    assert list(draws) == first
    assert list(TrainSampler(Shuffle(12), BatchLayout(4), epoch=1)) != first


def test_what_comes_is_announced_when_an_epoch_begins():
    announced = []
    draws = TrainSampler(Shuffle(13), BatchLayout(2, 1, 2), rank=1, epoch=1, step=2, announce=announced.append)
    assert not announced
    next(iter(draws))
    [images] = announced
    assert np.array_equal(images, Shuffle(13)(1)[8:]), "of all ranks, from the step on that a run goes on at"
    draws.set_epoch(2)
    list(draws)
    assert np.array_equal(announced[1], Shuffle(13)(2))


def test_an_unfrozen_epoch_may_be_drawn_twice():
    draws = TrainSampler(Shuffle(12), BatchLayout(4))
    assert list(draws) == list(draws)


# Validation.


@quick
@given(num_images=SIZES, world=WORLDS)
def test_blocks_share_out_all_images_in_order(num_images, world):
    blocks = [EvalSampler(num_images, world, rank) for rank in range(world)]
    drawn = [list(block) for block in blocks]
    assert [draw.index for draw in chain(*drawn)] == list(range(num_images))
    assert all(draw == (draw.index, 0, draw.index) for draw in chain(*drawn))
    assert [len(block) for block in blocks] == [len(each) for each in drawn]
    assert max(map(len, drawn)) - min(map(len, drawn)) <= 1
