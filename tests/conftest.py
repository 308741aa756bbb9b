"""Fixtures for all tests."""

import os

# Set before torch is imported: tests and their subprocesses share the cores.
os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")
if "PYTEST_XDIST_WORKER" in os.environ:  # as many processes as cores
    os.environ.setdefault("OMP_NUM_THREADS", "1")
os.environ["WANDB_MODE"] = "offline"
os.environ.pop("COLUMNS", None)  # pytest-xdist sets 80, which would wrap the output that tests read

import gc
import pickle
import subprocess
import sys
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from hydra import compose, initialize_config_dir
from hydra._internal import config_loader_impl
from hydra._internal.config_loader_impl import ConfigLoaderImpl
from hydra._internal.defaults_list import Overrides
from omegaconf import OmegaConf
from timm.layers import weight_init

from fvit.config import validation
from fvit.config.paths import conf_dir
from fvit.config.schemas.train import Train
from fvit.launch import own_code
from tests.tasks import call

Compose = Callable[..., dict[str, Any]]

own_code._INSTALLED += (
    f"{Path(__file__).resolve().parents[1]}{os.sep}",
)  # the tests are no user's code, to be kept with each run


def pytest_collection_finish():
    gc.freeze()  # else each collection walks the objects of torch and of all tests, as at the end of each run


def pytest_runtest_setup(item):
    if item.get_closest_marker("gpu") and not torch.cuda.is_available():
        pytest.skip("needs a CUDA GPU")


@pytest.fixture(scope="session", autouse=True)
def _no_waiting_for_the_disk():
    """Files need not survive a power cut; a run writes twenty of them, and waits longer for the disk than it trains."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(os, "fsync", lambda descriptor: None)
        yield


@pytest.fixture(scope="session", autouse=True)
def _files_of_conf_are_merged_once():
    """Most tests choose the same files of conf/ and override values: finding and merging these takes Hydra longest."""
    find, merge = config_loader_impl.create_defaults_list, ConfigLoaderImpl._compose_config_from_defaults_list
    found, merged = {}, {}

    def find_once(repo, config_name, overrides_list, **options):
        if not {source.path for source in repo.get_sources()} <= {"hydra.conf", str(conf_dir()), ""}:
            return find(repo, config_name, overrides_list, **options)
        chosen = Overrides(repo, overrides_list)
        values, chosen.config_overrides = chosen.config_overrides, []
        choice = repr((config_name, chosen, options))
        if choice not in found:
            found[choice] = find(repo, config_name, overrides_list, **options)
            merged[id(found[choice].defaults)] = None
        return replace(found[choice], config_overrides=values)

    def merge_once(self, defaults, repo):
        if id(defaults) not in merged:
            return merge(self, defaults, repo)
        if merged[id(defaults)] is None:
            merged[id(defaults)] = pickle.dumps(merge(self, defaults, repo))
        return pickle.loads(merged[id(defaults)])

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(config_loader_impl, "create_defaults_list", find_once)
        patch.setattr(ConfigLoaderImpl, "_compose_config_from_defaults_list", merge_once)
        yield


@pytest.fixture(scope="session", autouse=True)
def _meta_tensors_are_not_filled():
    """Drawing weights leaves them as they are, and takes five sixths of the time to build a ViT on the meta device."""
    draw = weight_init._trunc_normal_
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(weight_init, "_trunc_normal_", lambda t, *limits: t if t.is_meta else draw(t, *limits))
        yield


@pytest.fixture(scope="session", autouse=True)
def _conf_is_parsed_once():
    """Hydra parses the files of conf/ for every configuration, which takes a third of the time to compose it."""
    parse, parsed = OmegaConf.load, {}

    def load(file):
        name = os.path.realpath(getattr(file, "name", file))
        if not name.startswith(f"{conf_dir()}{os.sep}"):
            return parse(file)
        if name not in parsed:
            parsed[name] = pickle.dumps(parse(file))
        return pickle.loads(parsed[name])

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(OmegaConf, "load", load)
        yield


@pytest.fixture(autouse=True)
def _no_shared_wandb_service():
    """Subprocesses of a test must not use the W&B service of this process, which runs in another folder."""
    yield
    os.environ.pop("WANDB_SERVICE", None)
    os.environ.pop("WANDB_DATA_DIR", None)


@pytest.fixture
def compose_config(tmp_path: Path) -> Compose:
    """Composes and validates a training configuration whose run directory is in tmp_path."""

    def make(*overrides: str) -> dict[str, Any]:
        fixed = [f"output_dir={tmp_path / 'run'}", "title=test"]
        with initialize_config_dir(str(conf_dir()), version_base="1.3"):
            return validation.check(compose("train", overrides=[*fixed, *overrides]), Train)

    return make


@pytest.fixture
def fvit(tmp_path):
    """Runs a command in a new process, which imports torch."""

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
    """Runs a command in this process, without importing torch again."""

    def run(module, *arguments):
        monkeypatch.chdir(tmp_path)
        code = call(tmp_path, module, *arguments)
        out, err = capfd.readouterr()
        return subprocess.CompletedProcess(arguments, code, out, err)

    return run
