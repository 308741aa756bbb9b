"""The commands as functions, called with configurations that are composed and checked as on the command line."""

from hydra import compose, initialize_config_dir

from fvit.config.schemas import train as schema
from fvit.config import validation as validate
from fvit.config.paths import conf_dir
from fvit.train import train


def checked(task, model, *overrides):
    """The configuration of fvit-TASK."""
    with initialize_config_dir(str(conf_dir()), version_base="1.3"):
        return validate.check(compose(task, overrides=list(overrides)), model)


def trained(folder, *overrides):
    """`folder`, with a run in it."""
    train(checked("train", schema.Train, f"output_dir={folder}", "title=test", *overrides))
    return folder
