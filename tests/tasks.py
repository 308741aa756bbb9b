"""The commands in this process: as functions with a composed configuration, or as command lines."""

import csv
import importlib
import logging
import os
import subprocess
import sys

import pytest
import torch
from hydra import compose, initialize_config_dir

from fvit.config import validation
from fvit.config.paths import conf_dir
from fvit.config.schemas.train import Train
from fvit.train import train


def call(folder, task, *arguments):
    """Run fvit-TASK in `folder`; returns its exit code."""
    handlers = logging.getLogger().handlers[:]
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(folder)
        patch.setenv("HYDRA_FULL_ERROR", "")
        patch.setattr(sys, "argv", [f"fvit-{task}", *arguments])
        try:
            importlib.import_module(f"fvit.{task}").main()
        except SystemExit as stop:
            return stop.code
        finally:
            for handler in {*logging.getLogger().handlers} - {*handlers}:
                handler.close()  # the run's log file
            logging.getLogger().handlers[:] = handlers
    return 0


def call_apart(folder, task, *arguments):
    """Run fvit-TASK in `folder` as a process of its own, which may start ranks; returns the finished process."""
    done = subprocess.run(
        [sys.executable, "-m", f"fvit.{task}", *arguments],
        cwd=folder,
        env={**os.environ, "OMP_NUM_THREADS": "1", "COLUMNS": "160"},
        capture_output=True,
        text=True,
        timeout=300,
    )
    assert done.returncode == 0, done.stderr
    return done


def checked(task, model, *overrides):
    """The composed and validated configuration of fvit-TASK."""
    with initialize_config_dir(str(conf_dir()), version_base="1.3"):
        return validation.check(compose(task, overrides=list(overrides)), model)


def with_classes(run, target, names, order=None):
    """A copy of a run's best checkpoint whose outputs have these names, in another order if given."""
    content = torch.load(run / "checkpoints" / "best.ckpt", weights_only=True)
    if order is not None:
        heads = {f"model.head.{kind}" for kind in ("weight", "bias")}
        weights = content["state_dict"]
        content["state_dict"] = {key: weights[key][order] if key in heads else weights[key] for key in weights}
    torch.save({**content, "classes": names}, target)
    return target


def trained(folder, *overrides):
    """Train in `folder`, and return it."""
    train(checked("train", Train, f"output_dir={folder}", "title=test", *overrides))
    return folder


def rows_of(path):
    """The rows of a CSV file, by column."""
    return list(csv.DictReader(path.read_text(encoding="utf-8").splitlines()))
