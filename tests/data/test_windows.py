"""The order over shards of which a machine holds a few at a time."""

from itertools import chain

import numpy as np
from hypothesis import given, settings
from hypothesis import strategies as st

from fvit.data.sampler import BatchLayout, ShardWindows, Shuffle, TrainSampler, shards_in_order

quick = settings(deadline=None, derandomize=True, database=None, max_examples=150)
SHARDS = st.lists(st.integers(1, 12), min_size=1, max_size=14)
LANES = st.integers(1, 3)
WINDOW = st.integers(1, 5)
EPOCHS = st.integers(0, 3)


def shuffle(sizes, window, lanes, **options):
    return Shuffle(sum(sizes), windows=ShardWindows(np.array(sizes), window, lanes), **options)


def lanes_of(order, lanes):
    """What each machine reads: neighbouring places lie in different lanes."""
    return [order[lane::lanes] for lane in range(lanes)]


def shard_of(sizes, images):
    return np.repeat(np.arange(len(sizes)), sizes)[images]


@quick
@given(sizes=SHARDS, window=WINDOW, lanes=LANES, epoch=EPOCHS)
def test_every_image_at_most_once(sizes, window, lanes, epoch):
    order = shuffle(sizes, window, lanes)(epoch).tolist()
    assert len(set(order)) == len(order)
    assert set(order) <= set(range(sum(sizes)))
    assert len(order) == sum(sizes) // lanes * lanes


@quick
@given(
    sizes=SHARDS,
    window=WINDOW,
    nodes=LANES,
    batch_size=st.integers(1, 3),
    accumulate=st.integers(1, 2),
    local=st.integers(1, 2),
    epoch=EPOCHS,
)
def test_ranks_draw_equally_many(sizes, window, nodes, batch_size, accumulate, local, epoch):
    order, layout = shuffle(sizes, window, nodes), BatchLayout(batch_size, accumulate, nodes * local)
    ranks = [list(TrainSampler(order, layout, rank, epoch)) for rank in range(layout.world_size)]
    assert len({len(each) for each in ranks}) == 1
    drawn = [draw.index for draw in chain(*ranks)]
    assert len(set(drawn)) == len(drawn)
    assert sum(sizes) - len(drawn) < layout.global_batch + nodes
    # A machine's seats, those of one number modulo the machines, read its lane alone.
    for node, lane in enumerate(lanes_of(order(epoch), nodes)):
        assert {draw.index for seat in ranks[node::nodes] for draw in seat} <= set(lane.tolist())


@quick
@given(sizes=SHARDS, window=WINDOW, lanes=LANES, epoch=EPOCHS)
def test_a_shard_is_read_on_one_machine_or_at_a_cut_on_two(sizes, window, lanes, epoch):
    each = [set(shard_of(sizes, lane).tolist()) for lane in lanes_of(shuffle(sizes, window, lanes)(epoch), lanes)]
    shared = sum(len(shards) for shards in each) - len(set().union(*each))
    assert shared <= lanes - 1, "lanes are cut from one row of shards: a cut goes through one shard at most"


@quick
@given(sizes=SHARDS, draw=st.data())
def test_shards_are_told_in_the_order_in_which_they_are_needed(sizes, draw):
    images = draw.draw(st.lists(st.integers(0, sum(sizes) - 1), max_size=30))
    needed = shard_of(sizes, np.array(images, dtype=int)).tolist()
    assert shards_in_order(np.array(images, dtype=int), np.array(sizes)).tolist() == list(dict.fromkeys(needed))


@quick
@given(count=st.integers(1, 14), size=st.integers(1, 12), window=WINDOW, lanes=LANES, epoch=EPOCHS)
def test_few_shards_are_in_use_at_a_time(count, size, window, lanes, epoch):
    """Of shards of one size; a window that begins within one needs one more, and a lane's end another."""
    sizes = [size] * count
    for lane in lanes_of(shuffle(sizes, window, lanes)(epoch), lanes):
        shards = shard_of(sizes, lane).tolist()
        for start in range(0, len(shards), window * size):
            assert len(set(shards[start : start + window * size])) <= window + 2
        lives = [(shards.index(shard), len(shards) - shards[::-1].index(shard)) for shard in set(shards)]
        alive = [sum(first <= place < last for first, last in lives) for place in range(len(shards))]
        assert max(alive, default=0) <= window + 2, "what is read is done with soon"


def test_within_a_window_images_are_mixed():
    sizes = [50] * 8
    shards = shard_of(sizes, shuffle(sizes, 4, 1)(0))
    for half in (shards[:200], shards[200:]):
        assert len(set(half.tolist())) == 4
        assert np.count_nonzero(np.diff(half)) > 100


def test_a_window_over_all_shards_is_a_shuffle_of_all():
    sizes = [5] * 8
    order = shuffle(sizes, 8, 1)(0)
    assert sorted(order.tolist()) == list(range(40))
    firsts = [int(shuffle(sizes, 8, 1)(epoch)[0]) for epoch in range(2000)]
    assert all(15 < firsts.count(image) < 100 for image in range(40))


def test_shards_come_in_another_order_each_epoch():
    sizes = [5] * 8
    orders = {tuple(shards_in_order(shuffle(sizes, 2, 1)(epoch), np.array(sizes)).tolist()) for epoch in range(20)}
    assert len(orders) > 15


@quick
@given(sizes=SHARDS, window=WINDOW, lanes=LANES, repeats=st.integers(1, 3))
def test_repeats_lie_side_by_side_in_windows_too(sizes, window, lanes, repeats):
    order = shuffle(sizes, window, lanes, num_repeats=repeats)(0).tolist()
    assert len(order) == sum(sizes) // lanes * lanes
    runs = [order[start : start + repeats] for start in range(0, len(order), repeats)]
    assert all(len(set(run)) == 1 for run in runs)
    assert len({run[0] for run in runs}) == len(runs)
