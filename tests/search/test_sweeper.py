"""What a search asks Optuna for, reports to it, and does when it is started again; the task costs nothing."""

import math
import os
import re
import subprocess
import sys
from statistics import median

import pytest
from filelock import FileLock
from hydra.core.hydra_config import HydraConfig
from hydra.core.plugins import Plugins
from hydra.errors import HydraException
from hydra.plugins.launcher import Launcher
from optuna.trial import TrialState

from fvit.config.errors import ConfigError, RunError
from fvit.launch.record import write_metrics

COMPLETE, FAIL, PRUNED, RUNNING = TrialState.COMPLETE, TrialState.FAIL, TrialState.PRUNED, TrialState.RUNNING
LINE = "x=interval(-1,1)"
TWO = ["hydra.sweeper.objective=[score,cost]", "hydra.sweeper.direction=[maximize,minimize]"]


def parabola(cfg):
    return {"score": -((cfg.x - 0.3) ** 2)}


def interrupted(cfg):
    raise KeyboardInterrupt


def states(found):
    return [trial.state for trial in found]


def params(found):
    return [trial.params for trial in found]


def test_parameters_come_from_the_space_and_reach_the_jobs(toy, trials, tmp_path):
    seen = []

    def task(cfg):
        seen.append((HydraConfig.get().job.num, dict(cfg)))
        return {"score": cfg.x, "other": 1}

    toy(task, LINE, "n=range(2,9,3)", "way=up,down", "hydra.sweeper.n_trials=6")
    found = trials()
    assert states(found) == [COMPLETE] * 6
    for trial, (number, given) in zip(found, seen, strict=True):
        assert trial.number == number
        assert trial.params == given
        assert trial.value == given["x"]
        assert -1 <= given["x"] <= 1
    assert {given["n"] for _, given in seen} <= {2, 5, 8}
    assert {given["way"] for _, given in seen} == {"up", "down"}
    assert len({given["x"] for _, given in seen}) == 6
    assert (tmp_path / "sweep" / "5" / ".hydra" / "overrides.yaml").is_file()
    assert (tmp_path / "sweep" / "study.html").is_file()


@pytest.mark.slow
@pytest.mark.parametrize(("direction", "sign"), [("maximize", 1), ("minimize", -1)])
def test_the_search_learns_from_its_results(toy, trials, direction, sign):
    options = ["hydra.sweeper.n_trials=16", "hydra.sweeper.n_startup_trials=6", f"hydra.sweeper.direction={direction}"]
    toy(lambda cfg: {"score": cfg.x}, LINE, *options)
    values = [sign * trial.params["x"] for trial in trials()]
    assert median(values[-6:]) > 0.5


@pytest.mark.slow
def test_another_seed_asks_for_other_parameters(toy, trials, tmp_path):
    for seed in (0, 1):
        toy(parabola, LINE, "hydra.sweeper.n_trials=2", f"hydra.sweeper.seed={seed}", f"hydra.sweep.dir=seed{seed}")
    found = [trial.params["x"] for seed in (0, 1) for trial in trials(tmp_path / f"seed{seed}")]
    assert len(set(found)) == 4


@pytest.mark.slow
def test_a_failed_job_is_a_failed_trial_and_the_study_continues(toy, trials, capfd):
    def task(cfg):
        number = HydraConfig.get().job.num
        if number == 1:
            raise RuntimeError("out of luck")
        return {2: {"score": math.nan}, 3: {"score": math.inf}, 4: None}.get(number, {"score": 1.0})

    toy(task, LINE, "hydra.sweeper.n_trials=6")
    found = trials()
    assert states(found) == [COMPLETE, FAIL, FAIL, FAIL, FAIL, COMPLETE]
    errors = [trial.user_attrs["error"] for trial in found[1:5]]
    assert errors == ["RuntimeError: out of luck", "score is nan", "score is inf", "the job did not start"]
    assert "trial 2 failed: score is nan" in capfd.readouterr().out


@pytest.mark.parametrize("n_jobs", [pytest.param(1, marks=pytest.mark.slow), 2])
def test_metrics_json_decides_the_state_of_a_trial(toy, trials, tmp_path, n_jobs):
    """Jobs that run in other processes return nothing."""

    def task(cfg):
        settings = HydraConfig.get()
        status = ["finished", "pruned", "failed", "killed"][settings.job.num]
        folder = tmp_path / settings.runtime.output_dir
        write_metrics(folder, status, {"score": cfg.x}, error={"failed": "no memory"}.get(status))

    toy(task, LINE, "hydra.sweeper.n_trials=4", f"hydra.sweeper.n_jobs={n_jobs}")
    found = trials()
    assert states(found) == [COMPLETE, PRUNED, FAIL, FAIL]
    assert found[0].value == found[0].params["x"]
    assert [trial.user_attrs["error"] for trial in found[2:]] == ["no memory", "the job ended while killed"]


@pytest.mark.slow
def test_too_many_failures_stop_the_search(toy, trials):
    def task(cfg):
        raise RuntimeError("never")

    with pytest.raises(RunError, match=r"2 trials failed, and hydra.sweeper.max_failures=1"):
        toy(task, LINE, "hydra.sweeper.max_failures=1")
    assert states(trials()) == [FAIL] * 2
    # The failures of an earlier start do not count again.
    toy(parabola, LINE, "hydra.sweeper.max_failures=1", "hydra.sweeper.n_trials=3")
    assert states(trials()) == [FAIL] * 2 + [COMPLETE]


@pytest.mark.slow
def test_a_launcher_that_dies_fails_only_its_own_batch(toy, trials, tmp_path, monkeypatch):
    [basic] = [kind for kind in Plugins.instance().discover(Launcher) if kind.__name__ == "BasicLauncher"]
    launch = basic.launch
    calls = []

    def dying(self, job_overrides, initial_job_idx):
        calls.append((initial_job_idx, len(job_overrides)))
        if initial_job_idx == 2:
            (tmp_path / "sweep" / "2").mkdir()
            write_metrics(tmp_path / "sweep" / "2", "finished", {"score": 5.0})
            raise RuntimeError("a worker was killed")
        return launch(self, job_overrides, initial_job_idx)

    monkeypatch.setattr(basic, "launch", dying)
    toy(parabola, LINE, "hydra.sweeper.n_trials=5", "hydra.sweeper.n_jobs=2")
    assert calls == [(0, 2), (2, 2), (4, 1)]
    found = trials()
    assert states(found) == [COMPLETE, COMPLETE, COMPLETE, FAIL, COMPLETE]
    assert found[2].value == 5.0  # it had finished before the launcher died
    assert found[3].user_attrs["error"] == "RuntimeError: a worker was killed"


@pytest.mark.slow
def test_an_interrupted_study_continues_as_if_it_had_not_been(toy, trials, tmp_path):
    toy(parabola, LINE, "hydra.sweeper.n_trials=6", "hydra.sweeper.n_startup_trials=2", "hydra.sweep.dir=whole")
    jobs = []

    def interrupted_once(cfg):
        jobs.append(HydraConfig.get().job.num)
        if jobs.count(3) == 1 and jobs[-1] == 3:
            raise KeyboardInterrupt
        return parabola(cfg)

    arguments = (LINE, "hydra.sweeper.n_trials=6", "hydra.sweeper.n_startup_trials=2")
    with pytest.raises(KeyboardInterrupt):
        toy(interrupted_once, *arguments)
    assert states(trials()) == [COMPLETE] * 3 + [RUNNING]
    toy(interrupted_once, *arguments)
    assert jobs == [0, 1, 2, 3, 3, 4, 5]
    assert states(trials()) == [COMPLETE] * 6
    assert params(trials()) == params(trials(tmp_path / "whole"))


@pytest.mark.slow
def test_interrupted_trials_run_again_and_a_finished_study_can_be_extended(toy, trials):
    with pytest.raises(KeyboardInterrupt):
        toy(interrupted, LINE, "hydra.sweeper.n_trials=3", "hydra.sweeper.n_jobs=3")
    before = trials()
    assert states(before) == [RUNNING] * 3
    toy(parabola, LINE, "hydra.sweeper.n_trials=3", "hydra.sweeper.n_jobs=2")
    assert states(trials()) == [COMPLETE] * 3
    assert params(trials()) == params(before)
    toy(lambda cfg: pytest.fail("ran again"), LINE, "hydra.sweeper.n_trials=3")
    toy(parabola, LINE, "hydra.sweeper.n_trials=4")
    assert states(trials()) == [COMPLETE] * 4


@pytest.mark.slow
def test_the_pareto_front_is_printed_and_plotted(toy, capfd, trials, tmp_path):
    def task(cfg):
        return {"score": cfg.n - (cfg.way == "down") / 2, "cost": cfg.n**2 + (cfg.way == "down")}

    toy(task, "n=range(1,5)", "way=up,down", *TWO, "hydra.sweeper.n_trials=7")
    points = {tuple(trial.values) for trial in trials()}
    front = {(s, c) for s, c in points if not any(o != (s, c) and o[0] >= s and o[1] <= c for o in points)}
    assert 1 < len(front) < len(points)
    printed = capfd.readouterr().out
    rows = [line.split()[1:3] for line in printed.splitlines() if re.match(r"\d+ ", line)]
    assert {(float(score), float(cost)) for score, cost in rows} == front
    assert "Pareto front of study" in printed
    assert "Pareto" in (tmp_path / "sweep" / "study.html").read_text()


@pytest.mark.parametrize(
    ("second", "message"),
    [
        (["x=interval(-2,1)"], "its space was"),
        pytest.param([LINE, "n=1,2"], "its space was", marks=pytest.mark.slow),
        pytest.param([LINE, "hydra.sweeper.direction=minimize"], 'now {"score": "minimize"}', marks=pytest.mark.slow),
        pytest.param(
            [LINE, "hydra.sweeper.objective=other"], 'its objective was {"score": "maximize"}', marks=pytest.mark.slow
        ),
    ],
    ids=["range", "parameter", "direction", "objective"],
)
def test_another_search_in_the_same_directory_is_refused(toy, trials, second, message):
    def task(cfg):
        return {"score": cfg.x, "other": 1.0}

    toy(task, LINE, "hydra.sweeper.n_trials=1")
    with pytest.raises(RunError, match="another one") as caught:
        toy(task, *second, "hydra.sweeper.n_trials=2")
    assert message in str(caught.value)
    assert len(trials()) == 1


@pytest.mark.slow
def test_changed_overrides_are_a_warning(toy, capfd):
    toy(parabola, LINE, "hydra.sweeper.n_trials=1", "n=1")
    toy(parabola, LINE, "hydra.sweeper.n_trials=2", "n=2")
    assert "new trials differ from earlier ones in n=1, n=2" in capfd.readouterr().out


def test_two_searches_in_one_directory_exclude_each_other(toy, tmp_path):
    (tmp_path / "sweep").mkdir()
    with FileLock(tmp_path / "sweep" / ".study.lock"), pytest.raises(RunError, match="another process runs the study"):
        toy(parabola, LINE)


@pytest.mark.slow
def test_a_trial_of_another_machine_is_left_alone(toy, trials, tmp_path):
    shared = f"hydra.sweeper.storage=sqlite:///{tmp_path}/study.db"
    with pytest.raises(KeyboardInterrupt):
        toy(interrupted, LINE, "hydra.sweep.dir=there", shared)
    toy(parabola, LINE, "hydra.sweep.dir=here", shared, "hydra.sweeper.n_trials=1")
    assert states(trials(tmp_path)) == [RUNNING, COMPLETE]


@pytest.mark.parametrize(
    ("overrides", "error", "message"),
    [
        ([LINE, "+hydra.sweeper.trials=3"], ConfigError, "unknown key hydra.sweeper.trials"),
        ([LINE, "hydra.sweeper.objective=[score,cost]"], ConfigError, "must give maximize or minimize for each"),
        ([LINE, *TWO, "hydra/sweeper/pruner=asha"], ConfigError, "set hydra/sweeper/pruner=none"),
        ([LINE, "hydra.sweeper.objective=scor"], RunError, "is not a metric of a finished run, did you mean score"),
        (["xx=interval(0,1)"], HydraException, "xx"),
    ],
)
def test_a_mistake_is_reported(toy, overrides, error, message):
    with pytest.raises(error) as caught:
        toy(parabola, *overrides)
    assert message in str(caught.value)


def test_a_wrong_choice_is_found_before_the_first_job(toy, tmp_path):
    with pytest.raises(HydraException):
        toy(lambda cfg: pytest.fail("ran"), LINE, "n=1,2", "missing=1,2")
    assert not (tmp_path / "sweep").exists()


def test_ranks_do_not_search(toy, monkeypatch):
    monkeypatch.setenv("LOCAL_RANK", "1")
    with pytest.raises(RunError, match="several processes would each run a search"):
        toy(parabola, LINE)


def test_without_optuna_the_extra_is_named(toy, monkeypatch):
    monkeypatch.setitem(sys.modules, "optuna", None)
    with pytest.raises(RunError, match=r"pip install 'fvit\[optuna\]'"):
        toy(parabola, LINE)


def test_only_a_search_imports_optuna():
    done = subprocess.run(
        [sys.executable, "-m", "fvit.train", "sweep=optuna", "--cfg", "job", "--resolve"],
        env={**os.environ, "PYTHONPROFILEIMPORTTIME": "1"},
        capture_output=True,
        text=True,
    )
    assert done.returncode == 0, done.stderr
    assert "hydra_plugins" in done.stderr or "hydra.plugins.sweeper" in done.stderr
    assert not {"optuna", "sqlalchemy", "torch"} & set(done.stderr.split())
