"""What a study asks for, tells, keeps and goes on with; the task costs nothing."""

import math
import os
import re
import signal
import subprocess
import sys
import textwrap
from statistics import median

import pytest
from filelock import FileLock
from hydra.core.hydra_config import HydraConfig
from hydra.core.plugins import Plugins
from hydra.errors import HydraException
from hydra.plugins.launcher import Launcher
from optuna.trial import TrialState

from fvit.config.errors import ConfigError, RunError
from fvit.config.paths import conf_dir
from fvit.launch.run_dir import write_metrics

COMPLETE, FAIL, PRUNED, RUNNING = TrialState.COMPLETE, TrialState.FAIL, TrialState.PRUNED, TrialState.RUNNING
LINE = "x=interval(-1,1)"
TWO = ["hydra.sweeper.objective=[score,cost]", "hydra.sweeper.direction=[maximize,minimize]"]


def parabola(cfg):
    return {"score": -((cfg.x - 0.3) ** 2)}


def states(found):
    return [trial.state for trial in found]


def params(found):
    return [trial.params for trial in found]


def test_parameters_come_from_the_space_and_reach_the_jobs(toy, trials, tmp_path):
    seen = []

    def task(cfg):
        seen.append((HydraConfig.get().job.num, dict(cfg)))
        return {"score": cfg.x, "other": 1}

    toy(task, LINE, "n=range(2,9,3)", "way=up,down", "hydra.sweeper.n_trials=9")
    found = trials()
    assert states(found) == [COMPLETE] * 9
    for trial, (number, given) in zip(found, seen, strict=True):
        assert trial.number == number
        assert trial.params == given
        assert trial.value == given["x"]
        assert -1 <= given["x"] <= 1
    assert {given["n"] for _, given in seen} == {2, 5, 8}
    assert {given["way"] for _, given in seen} == {"up", "down"}
    assert len({given["x"] for _, given in seen}) == 9
    assert (tmp_path / "sweep" / "8" / ".hydra" / "overrides.yaml").is_file()
    assert (tmp_path / "sweep" / "study.html").is_file()


@pytest.mark.slow
@pytest.mark.parametrize(("direction", "sign"), [("maximize", 1), ("minimize", -1)])
def test_the_search_learns_from_its_results(toy, trials, direction, sign):
    options = ["hydra.sweeper.n_trials=16", "hydra.sweeper.n_startup_trials=6", f"hydra.sweeper.direction={direction}"]
    toy(lambda cfg: {"score": cfg.x}, LINE, *options)
    values = [sign * trial.params["x"] for trial in trials()]
    assert median(values[-6:]) > 0.5


def test_another_seed_asks_for_other_parameters(toy, trials, tmp_path):
    for seed in (0, 1, 0):
        toy(parabola, LINE, "hydra.sweeper.n_trials=3", f"hydra.sweeper.seed={seed}", f"hydra.sweep.dir=again{seed}")
    assert not set(map(str, params(trials(tmp_path / "again0")))) & set(map(str, params(trials(tmp_path / "again1"))))


def test_a_failing_job_is_a_failed_trial_and_the_study_goes_on(toy, trials, capfd):
    def task(cfg):
        number = HydraConfig.get().job.num
        if number == 1:
            raise RuntimeError("out of luck")
        return {2: {"score": math.nan}, 3: {"score": math.inf}, 4: None}.get(number, {"score": 1.0})

    toy(task, LINE, "hydra.sweeper.n_trials=7")
    found = trials()
    assert states(found) == [COMPLETE, FAIL, FAIL, FAIL, FAIL, COMPLETE, COMPLETE]
    errors = [trial.user_attrs["error"] for trial in found[1:5]]
    assert errors == ["RuntimeError: out of luck", "score is nan", "score is inf", "the job did not begin"]
    assert "trial 2 failed: score is nan" in capfd.readouterr().out


@pytest.mark.parametrize("n_jobs", [1, 2])
def test_a_run_tells_by_its_metrics_how_it_ended(toy, trials, tmp_path, n_jobs):
    """As jobs do that ran in processes of their own, and return nothing."""

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


def test_too_many_failures_end_the_study(toy, trials):
    def task(cfg):
        raise RuntimeError("never")

    with pytest.raises(RunError, match=r"3 trials failed, and hydra.sweeper.max_failures=2"):
        toy(task, LINE, "hydra.sweeper.max_failures=2")
    assert states(trials()) == [FAIL] * 3
    # Those of an earlier start are not held against a later one.
    toy(parabola, LINE, "hydra.sweeper.max_failures=2", "hydra.sweeper.n_trials=5")
    assert states(trials()) == [FAIL] * 3 + [COMPLETE] * 2


def test_a_launcher_that_dies_takes_its_batch_alone(toy, trials, tmp_path, monkeypatch):
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
    assert found[2].value == 5.0  # it had ended before the launcher died
    assert found[3].user_attrs["error"] == "RuntimeError: a worker was killed"


@pytest.mark.slow
def test_a_study_that_was_interrupted_goes_on_as_if_it_had_not_been(toy, trials, tmp_path):
    toy(parabola, LINE, "hydra.sweeper.n_trials=6", "hydra.sweeper.n_startup_trials=2", "hydra.sweep.dir=whole")
    jobs = []

    def cut_once(cfg):
        jobs.append(HydraConfig.get().job.num)
        if jobs.count(3) == 1 and jobs[-1] == 3:
            raise KeyboardInterrupt
        return parabola(cfg)

    arguments = (LINE, "hydra.sweeper.n_trials=6", "hydra.sweeper.n_startup_trials=2")
    with pytest.raises(KeyboardInterrupt):
        toy(cut_once, *arguments)
    assert states(trials()) == [COMPLETE] * 3 + [RUNNING]
    toy(cut_once, *arguments)
    assert jobs == [0, 1, 2, 3, 3, 4, 5]
    assert states(trials()) == [COMPLETE] * 6
    assert params(trials()) == params(trials(tmp_path / "whole"))


def test_a_finished_study_has_nothing_to_do_and_can_be_prolonged(toy, trials):
    toy(parabola, LINE, "hydra.sweeper.n_trials=3")
    toy(lambda cfg: pytest.fail("ran again"), LINE, "hydra.sweeper.n_trials=3")
    toy(parabola, LINE, "hydra.sweeper.n_trials=4")
    assert states(trials()) == [COMPLETE] * 4


def test_several_trials_that_were_cut_begin_again(toy, trials):
    def cut(cfg):
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        toy(cut, LINE, "hydra.sweeper.n_trials=4", "hydra.sweeper.n_jobs=3")
    before = trials()
    assert states(before) == [RUNNING] * 3
    toy(parabola, LINE, "hydra.sweeper.n_trials=4", "hydra.sweeper.n_jobs=2")
    assert states(trials()) == [COMPLETE] * 4
    assert params(trials())[:3] == params(before)


def test_a_killed_process_leaves_a_study_that_goes_on(trials, tmp_path):
    (tmp_path / "toy.yaml").write_text("x: 0.0\n")
    (tmp_path / "toy.py").write_text(
        textwrap.dedent("""
        import os, pathlib, signal
        import hydra
        from hydra.core.hydra_config import HydraConfig

        @hydra.main(version_base="1.3", config_path=".", config_name="toy")
        def task(cfg):
            mark = pathlib.Path("killed")
            if HydraConfig.get().job.num == 2 and not mark.exists():
                mark.touch()
                os.kill(os.getpid(), signal.SIGKILL)
            return {"score": cfg.x}

        task()
        """)
    )
    command = [sys.executable, "toy.py", "-m", f"hydra.searchpath=[file://{conf_dir()}]", "hydra/sweeper=fvit_optuna"]
    command += ["hydra.sweep.dir=sweep", "hydra.sweeper.objective=score", "hydra.sweeper.n_trials=4", LINE]
    done = [subprocess.run(command, cwd=tmp_path, capture_output=True, text=True) for _ in range(2)]
    assert [process.returncode for process in done] == [-signal.SIGKILL, 0], done[-1].stderr
    found = trials()
    assert states(found) == [COMPLETE] * 4
    assert [trial.value for trial in found] == [trial.params["x"] for trial in found]


def test_a_pareto_front_is_that_of_brute_force(toy, capfd, trials, tmp_path):
    def task(cfg):
        return {"score": cfg.n - (cfg.way == "down") / 2, "cost": cfg.n**2 + (cfg.way == "down")}

    toy(task, "n=range(1,5)", "way=up,down", *TWO, "hydra.sweeper.n_trials=14")
    points = {tuple(trial.values) for trial in trials()}
    front = {(s, c) for s, c in points if not any(o != (s, c) and o[0] >= s and o[1] <= c for o in points)}
    assert 1 < len(front) < len(points)
    printed = capfd.readouterr().out
    rows = [line.split()[1:3] for line in printed.splitlines() if re.match(r"\d+ ", line)]
    assert {(float(score), float(cost)) for score, cost in rows} == front
    assert "Pareto front of study" in printed
    assert "Pareto" in (tmp_path / "sweep" / "study.html").read_text()


@pytest.mark.parametrize(
    ("first", "second", "message"),
    [
        ([LINE], ["x=interval(-2,1)"], "its space is"),
        ([LINE], [LINE, "n=1,2"], "its space is"),
        (["n=1,2"], ["n=1,3"], "its space is"),
        ([LINE], [LINE, "hydra.sweeper.objective=other"], 'its objective is {"score": "maximize"}'),
        ([LINE], [LINE, "hydra.sweeper.direction=minimize"], 'now asked: {"score": "minimize"}'),
    ],
    ids=["limits", "a further parameter", "a choice", "objective", "direction"],
)
def test_another_search_in_the_same_folder_is_refused(toy, trials, first, second, message):
    def task(cfg):
        return {"score": cfg.x, "other": 1.0}

    toy(task, *first, "hydra.sweeper.n_trials=1")
    with pytest.raises(RunError, match="another one") as caught:
        toy(task, *second, "hydra.sweeper.n_trials=2")
    assert message in str(caught.value)
    assert len(trials()) == 1


def test_overrides_that_changed_are_told(toy, capfd):
    toy(parabola, LINE, "hydra.sweeper.n_trials=1", "n=1")
    toy(parabola, LINE, "hydra.sweeper.n_trials=2", "n=2")
    assert "further trials differ from those before in n=1, n=2" in capfd.readouterr().out


def test_two_searches_in_one_folder_exclude_each_other(toy, tmp_path):
    (tmp_path / "sweep").mkdir()
    with FileLock(tmp_path / "sweep" / ".study.lock"), pytest.raises(RunError, match="another process runs the study"):
        toy(parabola, LINE)


def test_a_trial_of_another_machine_is_left_alone(toy, trials, tmp_path):
    shared = f"hydra.sweeper.storage=sqlite:///{tmp_path}/study.db"

    def cut(cfg):
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        toy(cut, LINE, "hydra.sweep.dir=there", shared)
    toy(parabola, LINE, "hydra.sweep.dir=here", shared, "hydra.sweeper.n_trials=2")
    assert states(trials(tmp_path)) == [RUNNING, COMPLETE, COMPLETE]


@pytest.mark.parametrize(
    ("overrides", "error", "message"),
    [
        ([], ConfigError, "nothing to search"),
        ([LINE, "hydra.sweeper.n_trials=0"], ConfigError, "hydra.sweeper.n_trials=0"),
        ([LINE, "+hydra.sweeper.trials=3"], ConfigError, "unknown key hydra.sweeper.trials"),
        ([LINE, "hydra.sweeper.direction=up"], ConfigError, "'maximize' or 'minimize'"),
        ([LINE, "hydra.sweeper.objective=[score,cost]"], ConfigError, "needs one of maximize and minimize for each"),
        ([LINE, *TWO, "hydra/sweeper/pruner=asha"], ConfigError, "set hydra/sweeper/pruner=none"),
        ([LINE, "hydra.sweeper.objective=scor"], RunError, "is no metric of a finished run, did you mean score"),
        (["xx=interval(0,1)"], HydraException, "xx"),
    ],
)
def test_a_mistake_is_told(toy, overrides, error, message):
    with pytest.raises(error) as caught:
        toy(parabola, *overrides)
    assert message in str(caught.value)


def test_a_wrong_choice_is_found_before_the_first_job(toy, tmp_path):
    with pytest.raises(HydraException):
        toy(lambda cfg: pytest.fail("ran"), LINE, "n=1,2", "missing=1,2")
    assert not (tmp_path / "sweep").exists()


def test_ranks_do_not_search_each_for_itself(toy, monkeypatch):
    monkeypatch.setenv("LOCAL_RANK", "1")
    with pytest.raises(RunError, match="each of several processes would search for itself"):
        toy(parabola, LINE)


def test_without_optuna_the_extra_is_named(toy, monkeypatch):
    monkeypatch.setitem(sys.modules, "optuna", None)
    with pytest.raises(RunError, match=r"pip install 'fvit\[optuna\]'"):
        toy(parabola, LINE)


def test_nothing_loads_optuna_but_a_study():
    for arguments in (["--cfg", "job"], ["sweep=optuna", "--cfg", "job", "--resolve"]):
        done = subprocess.run(
            [sys.executable, "-m", "fvit.train", *arguments],
            env={**os.environ, "PYTHONPROFILEIMPORTTIME": "1"},
            capture_output=True,
            text=True,
        )
        assert done.returncode == 0, done.stderr
        assert "hydra_plugins" in done.stderr or "hydra.plugins.sweeper" in done.stderr
        assert not {"optuna", "sqlalchemy", "torch"} & set(done.stderr.split())
