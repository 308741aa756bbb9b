import numpy as np

from fvit.data import Source
from fvit.data.images import Pixels
from fvit.data.sampler import BatchLayout
from fvit.data.train_position import TrainPosition


class Sharded(Pixels):
    """Twelve images in shards of three, of which this machine can hold `window`."""

    def __init__(self, window):
        super().__init__(np.zeros((12, 4, 4), dtype=np.uint8), np.zeros(12))
        self.held, self.fetched = window, []

    @property
    def shard_sizes(self):
        return np.full(4, 3)

    @property
    def window(self):
        return self.held

    def prefetch(self, shards):
        self.fetched.append(shards.tolist())


def sampler_of(window, state=None, rank=0, world=1):
    """The sampler of a rank on a machine of its own, and its images."""
    images = Sharded(window)
    position = TrainPosition(Source(images, images, ["one"]), seed=0, num_repeats=1)
    position.resume(state or {})
    return position.sampler(BatchLayout(1, 1, world), position.first_epoch, rank, ranks_per_node=1), images


def resumed(windows, position):
    return {"epoch": 0, "position": position, "images": 12, "windows": windows}


def test_a_run_resumes_with_its_windows_on_machines_with_other_caches():
    whole = [key.index for key in sampler_of(2)[0]]
    assert whole != [key.index for key in sampler_of(1)[0]]
    for window in (1, None):
        assert [key.index for key in sampler_of(window, resumed((2, 1), 5))[0]] == whole[5:]
    without = [key.index for key in sampler_of(None)[0]]
    assert [key.index for key in sampler_of(2, resumed(None, 5))[0]] == without[5:]


def test_a_node_prefetches_what_it_will_read():
    for rank in (0, 1):
        sampler, images = sampler_of(1, rank=rank, world=2)
        read = [key.index // 3 for key in sampler]
        assert images.fetched == [list(dict.fromkeys(read))]
        assert len(set(read)) == 2
