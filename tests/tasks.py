"""Composes configurations as the command line does, and trains."""

from hydra import compose, initialize_config_dir

from fvit.config import validation
from fvit.config.paths import conf_dir
from fvit.config.schemas.train import Train
from fvit.train import train


def checked(task, model, *overrides):
    """The composed and validated configuration of fvit-TASK."""
    with initialize_config_dir(str(conf_dir()), version_base="1.3"):
        return validation.check(compose(task, overrides=list(overrides)), model)


def trained(folder, *overrides):
    """Train in `folder`, and return it."""
    train(checked("train", Train, f"output_dir={folder}", "title=test", *overrides))
    return folder
