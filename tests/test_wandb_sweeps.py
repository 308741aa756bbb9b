"""sweeps/*.yaml: the commands of W&B's agent are valid, and one is run without a server."""

import importlib
import itertools
import json
import math
import os
import random
import sys
import warnings
from pathlib import Path

import pytest
import wandb.wandb_agent
import yaml
from hydra.core.override_parser.overrides_parser import OverridesParser

import fvit
from fvit.train import train
from tests.loggers.wandb_runs import runs

FILES = sorted((Path(__file__).resolve().parents[1] / "sweeps").glob("*.yaml"))


@pytest.fixture(params=FILES, ids=lambda path: path.stem)
def sweep(request):
    return yaml.safe_load(request.param.read_text(encoding="utf-8"))


@pytest.fixture
def agent_runs(monkeypatch):
    """`agent_runs(sweep, drawn, process)` lets W&B's agent build the command of a run; returns the process."""

    def make(sweep, drawn, process):
        monkeypatch.setenv("WANDB_RUN_ID", "set by the agent, removed by monkeypatch")
        monkeypatch.setenv("WANDB_SWEEP_PARAM_PATH", "")
        monkeypatch.setenv("WANDB_SWEEP_ID", "sweep0")
        monkeypatch.setattr(wandb.wandb_agent, "AgentProcess", process)
        agent = object.__new__(wandb.wandb_agent.Agent)
        agent._sweep_command = list(sweep["command"])
        agent._in_jupyter = agent._forward_signals = False
        agent._function = None
        agent._run_processes = {}
        agent._command_run(
            {"run_id": "run0", "program": sweep["program"], "args": {k: {"value": v} for k, v in drawn.items()}}
        )
        return agent._run_processes["run0"]

    return make


class FakeProcess:
    """In place of the agent's process."""

    def __init__(self, command, **options):
        self.command = command


@pytest.fixture
def engine():
    """What draws the runs of a sweep on W&B's servers; the folder sweeps/ of this repository has the same name."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # it is written for pydantic 1
        found = importlib.import_module("sweeps")
    if not hasattr(found, "next_run"):
        pytest.skip("needs W&B's engine, which works with NumPy 2 and forbids it: pip install --no-deps sweeps jsonref")
    return found


def _draws(sweep):
    """Every combination of a grid, or some draws from the distributions."""
    parameters = sweep["parameters"]
    if sweep["method"] == "grid":
        values = itertools.product(*(given["values"] for given in parameters.values()))
        return [dict(zip(parameters, drawn, strict=True)) for drawn in values]
    assert {given["distribution"] for given in parameters.values()} == {"log_uniform_values"}
    draw = random.Random(0)
    return [
        {
            name: math.exp(draw.uniform(math.log(given["min"]), math.log(given["max"])))
            for name, given in parameters.items()
        }
        for _ in range(3)
    ]


def test_both_kinds_of_sweep_are_covered():
    assert {yaml.safe_load(path.read_text())["method"] for path in FILES} == {"bayes", "grid"}


def _check_command(command, sweep, compose_config):
    """W&B's agent starts a command that composes, with each of the drawn values where it belongs."""
    assert command[:5] == ["/usr/bin/env", "python", "-m", "fvit.train", "logger=wandb"]
    overrides = command[5:]
    assert len(overrides) == len(sweep["parameters"])
    config = compose_config(*command[4:])
    assert list(config["logger"]) == ["csv", "wandb"]
    for override in OverridesParser.create().parse_overrides(overrides):
        value = config["model"] if override.key_or_group == "attention" else config
        for part in override.key_or_group.split("."):
            value = value[part]
        assert value in (override.value(), {"name": override.value(), **(value if isinstance(value, dict) else {})})


def test_agent_starts_valid_commands(sweep, agent_runs, compose_config, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    for drawn in _draws(sweep)[:3]:
        _check_command(agent_runs(sweep, drawn, FakeProcess).command, sweep, compose_config)


@pytest.mark.filterwarnings("ignore::sklearn.exceptions.ConvergenceWarning")  # of its Gaussian process
def test_wandbs_engine_draws_valid_runs(sweep, engine, agent_runs, compose_config, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    assert engine.schema_violations_from_proposed_config(sweep) == []
    metric, done = sweep["metric"]["name"], []
    while len(done) < 30 and (run := engine.next_run(sweep, done, validate=True)) is not None:
        run.state, run.name = engine.RunState.finished, str(len(done))
        run.history = [{metric: epoch / 20 / (1 + len(done))} for epoch in range(1, 21)]
        run.summary_metrics = run.history[-1]
        done.append(run)
    drawn = [{name: given["value"] for name, given in run.config.items()} for run in done]
    if sweep["method"] == "grid":
        assert sorted(drawn, key=str) == sorted(_draws(sweep), key=str)
    else:
        assert len(drawn) == 30, "it does not end by itself"
        for name, given in sweep["parameters"].items():
            assert all(given["min"] <= one[name] <= given["max"] for one in drawn)
    for one in (drawn[0], drawn[-1]):
        values = {name: getattr(value, "item", lambda value=value: value)() for name, value in one.items()}
        _check_command(agent_runs(sweep, values, FakeProcess).command, sweep, compose_config)
    if "early_terminate" in sweep:
        done[-1].state = engine.RunState.running
        assert [run.name for run in engine.stop_runs(sweep, done, validate=True)] == ["29"], "the worst of all"


def test_metric_is_logged_by_runs(sweep, compose_config):
    config = compose_config("data=fake", "data.num_images=64", "model.embed_dim=24", "model.depth=1", "debug=fdr")
    assert sweep["metric"]["name"] in train(config)


@pytest.mark.slow
def test_agent_trains(agent_runs, tmp_path, monkeypatch):
    [sweep] = [loaded for path in FILES if (loaded := yaml.safe_load(path.read_text()))["method"] == "bayes"]
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("PYTHONPATH", str(Path(fvit.__file__).parents[1]))
    monkeypatch.setenv("PATH", f"{Path(sys.executable).parent}:{os.environ['PATH']}")
    sweep["command"] += ["data=fake", "data.num_images=64", "model.embed_dim=24", "model.depth=1", "debug=limit"]
    process = agent_runs(sweep, _draws(sweep)[0], wandb.wandb_agent.AgentProcess)
    assert process.wait() == 0
    [folder] = (tmp_path / "logs" / "train" / "runs").iterdir()
    assert json.loads((folder / "metrics.json").read_text())["status"] == "finished"
    [kept] = runs(tmp_path / "logs" / "wandb")
    assert kept.run["run_id"] == "run0"
    assert sweep["metric"]["name"] in kept.summed["summary"]
