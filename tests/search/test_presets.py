"""sweep=optuna and sweep=pareto with real training, in subprocesses where one is killed or starts ranks."""

import json
import os
import re
import signal
import subprocess
import sys
from pathlib import Path

import optuna
import pytest
from optuna.trial import TrialState

import fvit
from fvit.launch.record import read_metrics
from fvit.search.study import connected
from tests.killed import VARIABLE

ROOT = Path(__file__).resolve().parents[2]  # for the spy
TINY = ["data=fake", "data.num_images=64", "model.embed_dim=24", "model.depth=1", "global_batch_size=16"]
SHORT = [*TINY, "debug=limit", "logger=none", "hydra.sweep.dir=sweep"]


@pytest.fixture
def fvit_train(tmp_path):
    def run(*overrides, **environment):
        paths = f"{Path(fvit.__file__).parents[1]}:{ROOT}"
        return subprocess.run(
            [sys.executable, "-m", "fvit.train", *overrides],
            cwd=tmp_path,
            env={**os.environ, "OMP_NUM_THREADS": "1", "PYTHONPATH": paths, **environment},
            start_new_session=True,
            capture_output=True,
            text=True,
            timeout=600,
        )

    return run


def _trials(tmp_path):
    with connected(f"sqlite:///{tmp_path}/sweep/study.db") as storage:
        return optuna.load_study(storage=storage, study_name="study").trials


@pytest.mark.slow
@pytest.mark.exhaustive  # test_sweeper.py, test_pruning.py and launch/test_ranks.py have its parts
def test_both_ranks_train_the_parameters_of_the_trial_and_end_together(fvit_train, tmp_path):
    """Different hyperparameters would result in different weights. The pruner monitors the learning rate here."""
    ddp = ["hardware=ddp_cpu", "+callbacks.spy._target_=tests.search.spy.Spy", "hydra.sweeper.n_trials=2"]
    pruner = ["hydra/sweeper/pruner=threshold", "hydra.sweeper.pruner.upper=4e-3"]
    pruner += ["hydra.sweeper.pruner.n_warmup_steps=0", "callbacks.pruning.monitor=lr"]
    done = fvit_train("sweep=optuna", *SHORT, *ddp, *pruner, "optimizer.lr=1e-3,1e-2")
    assert done.returncode == 0, done.stderr
    trials = _trials(tmp_path)
    assert {trial.params["optimizer.lr"] for trial in trials} == {"0.001", "0.01"}
    assert len({trial.params["optimizer.weight_decay"] for trial in trials}) == 2
    for trial in trials:
        job = tmp_path / "sweep" / str(trial.number)
        first, second = (json.loads((job / f"rank-{rank}.json").read_text()) for rank in (0, 1))
        assert first == second
        assert first["world_size"] == 2
        assert first["lr"] == float(trial.params["optimizer.lr"])
        assert first["weight_decay"] == trial.params["optimizer.weight_decay"]
        pruned = first["lr"] == 0.01
        assert trial.state == (TrialState.PRUNED if pruned else TrialState.COMPLETE)
        assert read_metrics(job)["status"] == ("pruned" if pruned else "finished")
        assert first["epochs"] == (1 if pruned else 3)


@pytest.mark.slow
@pytest.mark.exhaustive  # test_sweeper.py interrupts a search, and tests/test_launchers.py kills a job of a sweep
def test_a_killed_trial_resumes_from_its_checkpoint(fvit_train, tmp_path):
    spies = ["+callbacks.spy._target_=tests.search.spy.Spy", "+callbacks.kill._target_=tests.killed.KillAt"]
    command = ["sweep=optuna", *SHORT, *spies, "hydra.sweeper.n_trials=2"]
    killed = fvit_train(*command, **{VARIABLE: "on_train_epoch_end:2:0"})
    assert killed.returncode == -signal.SIGKILL
    assert not (tmp_path / "sweep" / "1").exists()
    done = fvit_train(*command)
    assert done.returncode == 0, done.stderr
    whole = fvit_train(*command, "hydra.sweep.dir=whole")
    assert whole.returncode == 0, whole.stderr
    for number, epochs in ((0, 2), (1, 3)):
        seen, expected = (
            json.loads((tmp_path / sweep / str(number) / "rank-0.json").read_text()) for sweep in ("sweep", "whole")
        )
        assert (seen.pop("epochs"), expected.pop("epochs")) == (epochs, 3)
        assert seen == expected


@pytest.mark.slow
def test_only_runs_that_learn_nothing_are_pruned(main, tmp_path):
    digits = ["model.embed_dim=24", "model.depth=1", "augment=none", "scheduler=constant", "scheduler.warmup_epochs=0"]
    options = ["trainer.max_epochs=3", "hydra.sweeper.n_trials=4", "hydra.sweeper.pruner.n_startup_trials=1"]
    options += ["hydra.sweeper.pruner.n_warmup_steps=0", "hydra.sweep.dir=sweep", "logger=none"]
    done = main("train", "sweep=optuna", *digits, *options, "optimizer.lr=1e-9,1e-2", "optimizer.weight_decay=0.0")
    assert done.returncode == 0, done.stderr
    trials = _trials(tmp_path)
    good = [trial for trial in trials if trial.params["optimizer.lr"] == "0.01"]
    assert {trial.state for trial in good} == {TrialState.COMPLETE}
    hopeless = [trial for trial in trials[good[0].number + 1 :] if trial not in good]
    assert hopeless
    for trial in hopeless:
        assert trial.state == TrialState.PRUNED
        assert len(trial.intermediate_values) < 3
        assert read_metrics(tmp_path / "sweep" / str(trial.number))["status"] == "pruned"
    assert "pruned" in done.stdout


@pytest.mark.slow
def test_accuracy_against_macs(main, tmp_path):
    shapes = ["model.embed_dim=24", "model.depth=range(1,3)", "attention=additive,softmax", "hydra.sweeper.n_trials=5"]
    done = main("train", "sweep=pareto", *SHORT[:2], "global_batch_size=16", *SHORT[5:], *shapes)
    assert done.returncode == 0, done.stderr
    trials = _trials(tmp_path)
    for trial in trials:
        metrics = read_metrics(tmp_path / "sweep" / str(trial.number))["metrics"]
        assert trial.values == [metrics["best/val/acc1"], metrics["cost/macs"]]
    points = {tuple(trial.values) for trial in trials}
    front = {(a, c) for a, c in points if not any(o != (a, c) and o[0] >= a and o[1] <= c for o in points)}
    table = done.stdout.split("Pareto front of study")[1].split("trials ")[0]
    rows = [line.split()[1:3] for line in table.splitlines() if re.match(r"\d+ ", line)]
    assert {(round(float(a), 4), float(c)) for a, c in rows} == {(round(a, 4), float(f"{c:.6g}")) for a, c in front}
    assert (tmp_path / "sweep" / "study.html").stat().st_size > 1_000_000
