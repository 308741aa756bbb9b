import pytest
import torch.distributed as dist

from fvit.callbacks.world_size import WorldSizeCheck
from fvit.config.errors import RunError


@pytest.fixture
def left_over_group(tmp_path):
    """What an earlier job of a sweep may leave behind: a process group of one."""
    dist.init_process_group("gloo", init_method=f"file://{tmp_path}/store", rank=0, world_size=1)
    yield
    dist.destroy_process_group()


def test_a_left_over_group_is_noticed(left_over_group):
    with pytest.raises(RunError, match="configured for 2 processes and finds 1"):
        WorldSizeCheck(2).setup(None, None, "fit")


def test_a_group_of_the_right_size_passes(left_over_group):
    WorldSizeCheck(1).setup(None, None, "fit")


def test_no_group_is_a_world_of_one():
    WorldSizeCheck(1).setup(None, None, "fit")
    with pytest.raises(RunError, match="finds 1"):
        WorldSizeCheck(2).setup(None, None, "fit")
