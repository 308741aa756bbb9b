"""A softmax run to learn from."""

import pytest
import torch.distributed as dist
from hydra import compose, initialize_config_dir

from fvit.config import validation
from fvit.config.paths import conf_dir
from fvit.config.schemas.train import Train
from fvit.train import train

from .fitting import FAKE

TEACHER = (*FAKE, "attention=softmax", "augment=none", "logger=none", "optimizer.lr=1e-2", "seed=1")


@pytest.fixture
def process_group(tmp_path):
    """This process as a world of its own, over gloo."""
    dist.init_process_group("gloo", init_method=f"file://{tmp_path / 'store'}", rank=0, world_size=1)
    yield
    dist.destroy_process_group()


@pytest.fixture(scope="session")
def teacher_run(tmp_path_factory):
    """The folder of a finished run of softmax attention on the fake data."""
    folder = tmp_path_factory.mktemp("teacher")
    with initialize_config_dir(str(conf_dir()), version_base="1.3"):
        config = compose("train", overrides=[f"output_dir={folder}", "title=teacher", *TEACHER])
    train(validation.check(config, Train))
    return folder
