from types import SimpleNamespace

import pytest
import torch.distributed as dist

from fvit.callbacks.world_size import WorldSizeCheck
from fvit.config.errors import RunError


def check(devices):
    WorldSizeCheck().setup(SimpleNamespace(num_devices=devices, num_nodes=1), None, "fit")


@pytest.fixture
def left_over_group(tmp_path):
    """A process group of one, which an earlier job of a sweep may leave behind."""
    dist.init_process_group("gloo", init_method=f"file://{tmp_path}/store", rank=0, world_size=1)
    yield
    dist.destroy_process_group()


def test_group_left_by_an_earlier_job_is_refused(left_over_group):
    with pytest.raises(RunError, match="configured for 2 processes and finds 1"):
        check(2)


def test_group_of_the_configured_size_passes(left_over_group):
    check(1)


def test_no_group_is_one_process():
    check(1)
    with pytest.raises(RunError, match="finds 1"):
        check(2)
