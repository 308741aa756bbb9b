"""Fixtures that all tests share."""

import os

# Before torch is imported anywhere: tests share the cores with each other's subprocesses.
os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")
os.environ["WANDB_MODE"] = "offline"
os.environ.pop("COLUMNS", None)  # pytest-xdist gives its workers 80, which would fold what a test reads

import importlib
import logging
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from hydra import compose, initialize_config_dir

from fvit.config import validation
from fvit.config.paths import conf_dir
from fvit.config.schemas.train import Train

Compose = Callable[..., dict[str, Any]]


@pytest.fixture(autouse=True)
def _wandb_process_of_its_own():
    """For each process that a test starts: W&B would have it use that of this one, which has another current folder."""
    yield
    os.environ.pop("WANDB_SERVICE", None)
    os.environ.pop("WANDB_DATA_DIR", None)


@pytest.fixture
def compose_config(tmp_path: Path) -> Compose:
    """A checked training configuration from overrides, its run's folder inside tmp_path."""

    def make(*overrides: str) -> dict[str, Any]:
        fixed = [f"output_dir={tmp_path / 'run'}", "title=test"]
        with initialize_config_dir(str(conf_dir()), version_base="1.3"):
            return validation.check(compose("train", overrides=[*fixed, *overrides]), Train)

    return make


@pytest.fixture
def fvit(tmp_path):
    """Run a command as a person would; slow, because each process imports torch anew."""

    def run(module, *arguments, **environment):
        variables = {**os.environ, "OMP_NUM_THREADS": "1", "COLUMNS": "160", **environment}
        return subprocess.run(
            [sys.executable, "-m", f"fvit.{module}", *arguments],
            cwd=tmp_path,
            env={name: value for name, value in variables.items() if value is not None},
            capture_output=True,
            text=True,
            timeout=300,
        )

    return run


@pytest.fixture
def main(tmp_path, monkeypatch, capfd):
    """The same command line inside this process, where torch is imported already."""

    def run(module, *arguments):
        monkeypatch.chdir(tmp_path)
        monkeypatch.setenv("HYDRA_FULL_ERROR", "")
        monkeypatch.setattr(sys, "argv", [f"fvit-{module}", *arguments])
        handlers = logging.getLogger().handlers[:]
        try:
            importlib.import_module(f"fvit.{module}").main()
            code = 0
        except SystemExit as stop:
            code = stop.code
        finally:
            logging.getLogger().handlers[:] = handlers
        out, err = capfd.readouterr()
        return subprocess.CompletedProcess(arguments, code, out, err)

    return run
