from collections import Counter
from itertools import chain

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from fvit.data.sampler import BatchLayout, EvalSampler, ShardWindows, Shuffle, TrainSampler, shards_in_order

quick = settings(deadline=None, derandomize=True, database=None, max_examples=60)
SIZES = st.integers(1, 80)
WORLDS = st.integers(1, 4)
REPEATS = st.integers(1, 4)
EPOCHS = st.integers(0, 3)
LAYOUTS = st.builds(BatchLayout, st.integers(1, 6), st.integers(1, 3), WORLDS)
SHARDS = st.lists(st.integers(1, 12), min_size=1, max_size=14)
NODES = st.integers(1, 3)
WINDOWS = st.integers(1, 5)


def samples(shuffle, layout, **options):
    """The samples of each rank."""
    return [list(TrainSampler(shuffle, layout, rank, **options)) for rank in range(layout.world_size)]


# Order


@quick
@given(num_images=SIZES, seed=st.integers(0, 3), epoch=EPOCHS)
def test_order_is_a_permutation(num_images, seed, epoch):
    order = Shuffle(num_images, seed)(epoch)
    assert sorted(order.tolist()) == list(range(num_images))


@pytest.mark.parametrize("options", [{}, {"num_repeats": 3}, {"windows": ShardWindows(np.full(10, 5), 2)}], ids=str)
def test_order_is_a_function_of_seed_and_epoch(options):
    def orders():
        return [tuple(Shuffle(50, seed, **options)(epoch).tolist()) for seed in (0, 1) for epoch in (0, 1)]

    first = orders()
    np.random.seed(3)  # noqa: NPY002
    assert orders() == first
    assert len(set(first)) == 4


def test_all_permutations_are_equally_likely():
    count = Counter(tuple(Shuffle(4)(epoch).tolist()) for epoch in range(2400))
    assert len(count) == 24
    assert all(60 < times < 140 for times in count.values())


@quick
@given(num_images=SIZES, repeats=REPEATS)
def test_repeated_augmentation_repeats_each_image_in_consecutive_positions(num_images, repeats):
    order = Shuffle(num_images, num_repeats=repeats)(0).tolist()
    assert len(order) == num_images
    runs = [order[start : start + repeats] for start in range(0, num_images, repeats)]
    assert all(len(set(run)) == 1 for run in runs)
    assert len({run[0] for run in runs}) == len(runs)
    assert set(order) <= set(range(num_images))


# Ranks and micro batches


def micro_batches(layout, step):
    """The positions of a step: [ranks][micro batches]."""
    return [
        layout.positions(step, rank).reshape(layout.accumulate, layout.batch_size) for rank in range(layout.world_size)
    ]


def test_positions_are_dealt_to_ranks_and_then_to_micro_batches():
    ranks = [batches.tolist() for batches in micro_batches(BatchLayout(2, 2, 2), step=1)]
    assert ranks == [[[8, 12], [10, 14]], [[9, 13], [11, 15]]]


@quick
@given(layout=LAYOUTS, step=st.integers(0, 3))
def test_step_is_divided_completely(layout, step):
    start = step * layout.global_batch
    found = sorted(np.concatenate([batches.ravel() for batches in micro_batches(layout, step)]).tolist())
    assert found == list(range(start, start + layout.global_batch))
    assert layout.global_batch == layout.batch_size * layout.accumulate * layout.world_size


@quick
@given(halves=st.integers(1, 3), accumulate=st.integers(1, 3), world=WORLDS, step=st.integers(0, 3))
def test_mixup_partners_are_half_a_micro_batch_apart(halves, accumulate, world, step):
    layout = BatchLayout(2 * halves, accumulate, world)
    for batches in micro_batches(layout, step):
        for batch in batches:
            assert np.array_equal(batch[halves:] - batch[:halves], np.full(halves, layout.global_batch // 2))


@quick
@given(num_images=SIZES, repeats=REPEATS, step=st.integers(0, 2))
def test_step_has_the_same_images_on_any_number_of_ranks(num_images, repeats, step):
    order = Shuffle(num_images, num_repeats=repeats)
    for shape in ((8, 1, 1), (4, 2, 1), (4, 1, 2), (2, 1, 4), (1, 2, 4), (2, 4, 1)):
        layout = BatchLayout(*shape)
        size = layout.batch_size * layout.accumulate
        drawn = chain.from_iterable(each[step * size : (step + 1) * size] for each in samples(order, layout))
        positions = range(step * 8, step * 8 + 8) if (step + 1) * 8 <= num_images else ()
        expected = [(int(order(0)[position]), 0, position) for position in positions]
        assert sorted(drawn, key=lambda key: key.position) == expected


def test_repeats_of_an_image_are_on_different_ranks():
    drawn = samples(Shuffle(30, num_repeats=3), BatchLayout(1, 1, 3))
    assert len({tuple(key.index for key in each) for each in drawn}) == 1
    assert len({key.index for key in drawn[0]}) == len(drawn[0])


# TrainSampler


@quick
@given(num_images=SIZES, layout=LAYOUTS, seed=st.integers(0, 3), epoch=EPOCHS)
def test_each_image_at_most_once_and_ranks_have_equal_shares(num_images, layout, seed, epoch):
    drawn = samples(Shuffle(num_images, seed), layout, epoch=epoch)
    assert len({len(each) for each in drawn}) == 1
    indices = [key.index for key in chain(*drawn)]
    assert len(set(indices)) == len(indices)
    assert num_images - layout.global_batch < len(indices) <= num_images
    assert all(type(number) is int for key in chain(*drawn) for number in key)
    assert {key.epoch for key in chain(*drawn)} <= {epoch}
    assert len(TrainSampler(Shuffle(num_images), layout)) == len(drawn[0])


@quick
@given(num_images=SIZES, layout=LAYOUTS, step=st.integers(0, 5), epoch=EPOCHS)
def test_resumed_epoch_is_the_rest_of_the_whole_one(num_images, layout, step, epoch):
    order, size = Shuffle(num_images), layout.batch_size * layout.accumulate
    whole, rest = samples(order, layout, epoch=epoch), samples(order, layout, epoch=epoch, step=step)
    assert rest == [each[step * size :] for each in whole]
    resumed = TrainSampler(order, layout, epoch=epoch, step=step)
    assert len(resumed) == len(whole[0]), "Lightning uses the length for every epoch"
    resumed.set_epoch(epoch)
    assert list(resumed) == rest[0]
    resumed.set_epoch(epoch + 1)
    assert list(resumed) == samples(order, layout, epoch=epoch + 1)[0]


def test_frozen_sampler_repeats_its_first_epoch():
    sampler = TrainSampler(Shuffle(12), BatchLayout(4), frozen=True)
    first = list(sampler)
    sampler.set_epoch(1)
    assert list(sampler) == first
    assert list(TrainSampler(Shuffle(12), BatchLayout(4), epoch=1)) != first


def test_on_epoch_gets_the_remaining_images_of_all_ranks():
    seen = []
    sampler = TrainSampler(Shuffle(13), BatchLayout(2, 1, 2), rank=1, epoch=1, step=2, on_epoch=seen.append)
    assert not seen
    next(iter(sampler))
    [images] = seen
    assert np.array_equal(images, Shuffle(13)(1)[8:])
    sampler.set_epoch(2)
    list(sampler)
    assert np.array_equal(seen[1], Shuffle(13)(2))


# EvalSampler


@quick
@given(num_images=SIZES, world=WORLDS)
def test_eval_samplers_share_all_images_in_order(num_images, world):
    samplers = [EvalSampler(num_images, world, rank) for rank in range(world)]
    drawn = [list(sampler) for sampler in samplers]
    assert list(chain(*drawn)) == [(index, 0, index) for index in range(num_images)]
    assert [len(sampler) for sampler in samplers] == [len(each) for each in drawn]
    assert max(map(len, drawn)) - min(map(len, drawn)) <= 1


# Windows of shards


def windowed(sizes, shards, nodes, **options):
    return Shuffle(sum(sizes), windows=ShardWindows(np.array(sizes), shards, nodes), **options)


def by_node(order, nodes):
    return [order[node::nodes] for node in range(nodes)]


def shard_of(sizes, images):
    return np.repeat(np.arange(len(sizes)), sizes)[images]


@quick
@given(sizes=SHARDS, shards=WINDOWS, nodes=NODES, epoch=EPOCHS, repeats=st.integers(1, 3))
def test_windowed_order_has_each_image_at_most_once(sizes, shards, nodes, epoch, repeats):
    order = windowed(sizes, shards, nodes)(epoch).tolist()
    assert len(set(order)) == len(order) == sum(sizes) // nodes * nodes
    assert set(order) <= set(range(sum(sizes)))
    repeated = windowed(sizes, shards, nodes, num_repeats=repeats)(epoch).tolist()
    assert repeated == [image for image in order for _ in range(repeats)][: len(order)]


@quick
@given(
    sizes=SHARDS,
    shards=WINDOWS,
    nodes=NODES,
    batch_size=st.integers(1, 3),
    accumulate=st.integers(1, 2),
    local=st.integers(1, 2),
    epoch=EPOCHS,
)
def test_windowed_ranks_have_equal_shares_of_their_nodes_shards(
    sizes, shards, nodes, batch_size, accumulate, local, epoch
):
    order, layout = windowed(sizes, shards, nodes), BatchLayout(batch_size, accumulate, nodes * local)
    drawn = samples(order, layout, epoch=epoch)
    assert len({len(each) for each in drawn}) == 1
    indices = [key.index for key in chain(*drawn)]
    assert len(set(indices)) == len(indices)
    assert sum(sizes) - len(indices) < layout.global_batch + nodes
    for node, part in enumerate(by_node(order(epoch), nodes)):
        assert {key.index for rank in drawn[node::nodes] for key in rank} <= set(part.tolist())


@quick
@given(sizes=SHARDS, shards=WINDOWS, nodes=NODES, epoch=EPOCHS)
def test_nodes_share_only_the_shards_at_the_cuts_between_them(sizes, shards, nodes, epoch):
    each = [set(shard_of(sizes, part).tolist()) for part in by_node(windowed(sizes, shards, nodes)(epoch), nodes)]
    assert sum(len(found) for found in each) - len(set().union(*each)) <= nodes - 1


@quick
@given(sizes=SHARDS, draw=st.data())
def test_shards_in_order_of_first_use(sizes, draw):
    images = np.array(draw.draw(st.lists(st.integers(0, sum(sizes) - 1), max_size=30)), dtype=int)
    needed = shard_of(sizes, images).tolist()
    assert shards_in_order(images, np.array(sizes)).tolist() == list(dict.fromkeys(needed))


@quick
@given(count=st.integers(1, 14), size=st.integers(1, 12), shards=WINDOWS, nodes=NODES, epoch=EPOCHS)
def test_few_shards_are_in_use_at_a_time(count, size, shards, nodes, epoch):
    """A window that starts within a shard needs one more, and the end of a node's part another."""
    sizes = [size] * count
    for part in by_node(windowed(sizes, shards, nodes)(epoch), nodes):
        found = shard_of(sizes, part).tolist()
        lives = [(found.index(shard), len(found) - found[::-1].index(shard)) for shard in set(found)]
        in_use = [sum(first <= position < last for first, last in lives) for position in range(len(found))]
        assert max(in_use, default=0) <= shards + 2


def test_images_within_a_window_are_mixed():
    sizes = [50] * 8
    found = shard_of(sizes, windowed(sizes, 4, 1)(0))
    for window in (found[:200], found[200:]):
        assert len(set(window.tolist())) == 4
        assert np.count_nonzero(np.diff(window)) > 100
    firsts = [int(windowed([5] * 8, 8, 1)(epoch)[0]) for epoch in range(2000)]
    assert all(15 < firsts.count(image) < 100 for image in range(40)), "a window of all shards is a shuffle"


def test_order_of_shards_changes_with_the_epoch():
    sizes = [5] * 8
    orders = {tuple(shards_in_order(windowed(sizes, 2, 1)(epoch), np.array(sizes)).tolist()) for epoch in range(20)}
    assert len(orders) > 15
