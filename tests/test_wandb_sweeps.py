"""sweeps/*.yaml, held to W&B's schema and sampled by W&B's engine; the agent's command is run, without a server."""

import importlib
import json
import os
import subprocess
import sys
import warnings
from pathlib import Path

import numpy as np
import pytest
import wandb.wandb_agent
import yaml
from hydra.core.override_parser.overrides_parser import OverridesParser

import fvit
from fvit.train import train

with warnings.catch_warnings():  # it is written for the pydantic before
    warnings.simplefilter("ignore")
    # Not among our dependencies: it has pip take NumPy 1, which pyarrow refuses.
    # By a module of its own, because the folder sweeps/ passes for a package of that name.
    engine = pytest.importorskip("sweeps.run", reason="needs W&B's engine: pip install --no-deps sweeps jsonref")
    sweeps, RunState = importlib.import_module("sweeps"), engine.RunState

# The engine fits a Gaussian process to two or three results.
pytestmark = pytest.mark.filterwarnings("ignore::sklearn.exceptions.ConvergenceWarning")

FILES = sorted((Path(__file__).resolve().parents[1] / "sweeps").glob("*.yaml"))


@pytest.fixture(params=FILES, ids=lambda path: path.stem)
def sweep(request):
    return yaml.safe_load(request.param.read_text(encoding="utf-8"))


@pytest.fixture
def agent_runs(monkeypatch):
    """`agent_runs(sweep, run)` has W&B's own agent make the command of a run, and gives what it would start."""

    def make(sweep, run, process):
        monkeypatch.setenv("WANDB_RUN_ID", "set by the agent, removed by monkeypatch")
        monkeypatch.setenv("WANDB_SWEEP_PARAM_PATH", "")
        monkeypatch.setenv("WANDB_SWEEP_ID", "sweep0")
        monkeypatch.setattr(wandb.wandb_agent, "AgentProcess", process)
        agent = object.__new__(wandb.wandb_agent.Agent)
        agent._sweep_command = list(sweep["command"])
        agent._in_jupyter = agent._forward_signals = False
        agent._function = None
        agent._run_processes = {}
        agent._command_run({"run_id": "run0", "program": sweep["program"], "args": run.config})
        return agent._run_processes["run0"]

    return make


class Told:
    """In place of the agent's process."""

    def __init__(self, command, **options):
        self.command = command


def _sample(sweep, count):
    """Runs that the server would hand out one after another, each with a better result than the one before."""
    runs = []
    np.random.seed(0)  # noqa: NPY002 the engine draws from it
    while len(runs) < count and (run := sweeps.next_run(sweep, runs)) is not None:
        run.config = {name: {"value": _plain(given["value"])} for name, given in run.config.items()}
        run.state = RunState.finished
        run.summary_metrics = {sweep["metric"]["name"]: len(runs) / 100}
        run.history = [run.summary_metrics]
        runs.append(run)
    return runs


def _plain(value):
    """As the server sends it, in JSON."""
    return value.item() if isinstance(value, np.generic) else value


def test_there_are_a_search_and_a_grid():
    assert {yaml.safe_load(path.read_text())["method"] for path in FILES} == {"bayes", "grid"}


def test_wandbs_schema_holds(sweep):
    assert sweeps.schema_violations_from_proposed_config(sweep) == []
    broken = {**sweep, "method": "baies"}
    assert sweeps.schema_violations_from_proposed_config(broken)


def test_what_the_agent_would_start_composes(sweep, agent_runs, compose_config, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    runs = _sample(sweep, 8)
    assert len(runs) == 8
    for run in runs:
        command = agent_runs(sweep, run, Told).command
        assert command[:5] == ["/usr/bin/env", "python", "-m", "fvit.train", "logger=wandb"]
        overrides = command[5:]
        assert len(overrides) == len(sweep["parameters"])
        config = compose_config(*command[4:])
        assert list(config["logger"]) == ["wandb"]
        for override in OverridesParser.create().parse_overrides(overrides):
            value = config["model"] if override.key_or_group == "attention" else config
            for part in override.key_or_group.split("."):
                value = value[part]
            assert value in (override.value(), {"name": override.value(), **(value if isinstance(value, dict) else {})})


def test_a_grid_ends_with_every_combination(agent_runs, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    [grid] = [loaded for path in FILES if (loaded := yaml.safe_load(path.read_text()))["method"] == "grid"]
    runs = _sample(grid, 100)
    combinations = {tuple(agent_runs(grid, run, Told).command[5:]) for run in runs}
    assert len(runs) == len(combinations) == 12
    assert ("attention=performer", "seed=2") in combinations


def test_the_metric_is_one_that_runs_log(sweep, compose_config):
    config = compose_config("data=fake", "data.num_images=64", "model.embed_dim=24", "model.depth=1", "debug=fdr")
    assert sweep["metric"]["name"] in train(config)


@pytest.mark.slow
def test_the_agents_command_trains(agent_runs, tmp_path, monkeypatch):
    [sweep] = [loaded for path in FILES if (loaded := yaml.safe_load(path.read_text()))["method"] == "bayes"]
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("PYTHONPATH", str(Path(fvit.__file__).parents[1]))
    monkeypatch.setenv("PATH", f"{Path(sys.executable).parent}:{os.environ['PATH']}")
    sweep["command"] += ["data=fake", "data.num_images=64", "model.embed_dim=24", "model.depth=1", "debug=limit"]
    [run] = _sample(sweep, 1)
    process = agent_runs(sweep, run, wandb.wandb_agent.AgentProcess)
    assert process.wait() == 0
    [folder] = (tmp_path / "logs" / "train" / "runs").iterdir()
    assert json.loads((folder / "metrics.json").read_text())["status"] == "finished"
    [kept] = (tmp_path / "logs" / "wandb").glob("offline-run-*")
    assert kept.name.endswith("-run0")
    inspect = [sys.executable, "-m", "wandb", "leet", "inspect", "--json", "--summary", str(next(kept.glob("*.wandb")))]
    summary = subprocess.run(inspect, capture_output=True, text=True, check=True).stdout
    assert sweep["metric"]["name"] in summary
