"""The commands as functions, called with configurations that are composed and checked as on the command line."""

from hydra import compose, initialize_config_dir

from fvit.config import validation
from fvit.config.paths import conf_dir
from fvit.config.schemas.train import Train
from fvit.train import train


def checked(task, model, *overrides):
    """The configuration of fvit-TASK."""
    with initialize_config_dir(str(conf_dir()), version_base="1.3"):
        return validation.check(compose(task, overrides=list(overrides)), model)


def trained(folder, *overrides):
    """`folder`, with a run in it."""
    train(checked("train", Train, f"output_dir={folder}", "title=test", *overrides))
    return folder
