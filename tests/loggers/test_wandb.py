import subprocess
import sys
from contextlib import contextmanager
from types import SimpleNamespace

import pytest

from fvit.config.errors import ConfigError
from fvit.launch.resume import find_checkpoint
from fvit.loggers.wandb import RunLogger
from tests.callbacks.test_resume_state import KillAt
from tests.loggers.wandb_runs import runs
from tests.loggers.wandb_stub import ANSWERS, REFUSALS, serving
from tests.training.fitting import FAKE, fit

KEY = "0123456789" * 4


def logger(tmp_path, folder, name="ViT, additive, seed 0", **options):
    return RunLogger(tmp_path / "logs", "fvit", name, folder, **options)


def test_a_run_keeps_its_id_until_it_begins_afresh(tmp_path, compose_config):
    folder = tmp_path / "run"
    first = logger(tmp_path, folder)
    assert first.version
    assert first._wandb_init["resume"] == "allow"
    assert logger(tmp_path, folder).version == first.version == (folder / "wandb_id").read_text()
    find_checkpoint(compose_config())
    assert logger(tmp_path, folder).version != first.version


def test_the_jobs_of_a_sweep_are_a_group_and_parts_of_the_name_are_tags(tmp_path):
    alone = logger(tmp_path, tmp_path / "runs" / "one")._wandb_init
    assert alone["group"] is None
    assert alone["tags"] == ["ViT", "additive", "seed 0"]
    (tmp_path / "sweep").mkdir()
    (tmp_path / "sweep" / "multirun.yaml").write_text("")
    job = logger(tmp_path, tmp_path / "sweep" / "0", name=f"seed 0, {'x' * 99}", tags=["seed 0", "digits"])._wandb_init
    assert job["group"] == "sweep"
    assert job["tags"] == ["seed 0", "x" * 64, "digits"]
    assert logger(tmp_path, tmp_path / "sweep" / "1", group="mine")._wandb_init["group"] == "mine"


class Kill(BaseException):
    """Is no Exception."""


@pytest.mark.parametrize(
    ("raised", "state", "code"),
    [(RuntimeError("broken"), "failed", 1), (KeyboardInterrupt(), "failed", 255), (Kill(), "failed", 1)],
    ids=["error", "interrupt", "other"],
)
def test_a_run_that_is_cut_off_is_closed_with_its_status_and_its_best(compose_config, tmp_path, raised, state, code):
    class Cut(KillAt):
        def _count(self, *args):
            self.left -= 1
            if self.left == 0:
                raise raised

    config = compose_config(*FAKE, "logger=wandb", f"logger.wandb.save_dir={tmp_path}", "trainer.max_epochs=2")
    with pytest.raises(type(raised)):
        fit(config, Cut("on_train_batch_start", 6))
    [run] = runs(tmp_path / "wandb")
    assert (run.summed["state"], run.summed["exit_code"]) == (state, code)
    assert run.summed["summary"]["best/val/acc1"] == run.summed["summary"]["val/acc1"]
    assert run.summed["summary"]["cost/params"] > 0


def test_a_run_that_is_stopped_to_go_on_says_so_to_wandb(tmp_path):
    stopped = logger(tmp_path, tmp_path / "run")
    stopped.log_metrics({"a": 1.0}, 0)
    stopped.close(SimpleNamespace(checkpoint_callbacks=[]), {}, 1, preempted=True)
    [run] = runs(tmp_path / "logs" / "wandb")
    assert run.summed["exit_code"] == 1
    assert "preempting" in run.kinds


SCRIPT = """
import sys, time
from pathlib import Path
from fvit.loggers.wandb import RunLogger
logger = RunLogger("logs", "fvit", "test", "run", artifacts="all")
start = time.monotonic()
logger.log_metrics({"val/acc1": 0.5}, 3)
print("begun", time.monotonic() - start, flush=True)
{between}
start = time.monotonic()
logger.log_dataset("digits", {"train_images": 8}, None)
print("data", time.monotonic() - start, flush=True)
class Best:
    monitor, best_model_path = "val/acc1", "best.ckpt"
Path("best.ckpt").write_text("weights")
class Trainer:
    checkpoint_callbacks = [Best]
logger.log_metrics({"val/acc1": 0.75}, 4)
start = time.monotonic()
logger.close(Trainer, {}, 0)
print("closed", time.monotonic() - start, flush=True)
"""


@contextmanager
def scripted(tmp_path, monkeypatch, url, between=""):
    """A process that logs two rows to a server, and the folder of W&B's runs."""
    monkeypatch.delenv("WANDB_MODE")
    monkeypatch.setenv("WANDB_API_KEY", KEY)
    monkeypatch.setenv("WANDB_BASE_URL", url)
    command = [sys.executable, "-c", SCRIPT.replace("{between}", between)]
    pipes = dict(stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.STDOUT)
    with subprocess.Popen(command, cwd=tmp_path, text=True, **pipes) as process:
        try:
            yield process
        finally:
            process.kill()


def read_until(process, word):
    """Lines up to the one that begins with `word`."""
    lines = []
    while not lines or not lines[-1].startswith(word):
        line = process.stdout.readline()
        assert line, "".join(lines)
        lines.append(line)
    return lines


@pytest.mark.parametrize(
    ("answers", "status", "reason"),
    [
        pytest.param(None, None, "does not answer", id="dead", marks=pytest.mark.slow),
        pytest.param({}, 401, "does not take the API key", id="wrong key"),
        pytest.param(
            {**ANSWERS, "UpsertBucket": "not yours"},
            200,
            "does not take the run (",
            id="no permission",
            marks=pytest.mark.slow,
        ),
    ],
)
def test_a_server_that_is_of_no_use_costs_seconds(tmp_path, monkeypatch, answers, status, reason):
    with serving(answers, status) as (url, die, _):
        if answers is None:
            die()
        with scripted(tmp_path, monkeypatch, url) as process:
            lines = read_until(process, "closed")
    assert sum(float(line.split()[1]) for line in lines if line.startswith(("begun", "data", "closed"))) < 20
    [told] = [line for line in lines if line.startswith("W&B: ")]
    assert reason in told
    assert "stays offline in logs/wandb/offline-run-" in told
    assert "`wandb leet logs/wandb`" in told
    assert "`wandb sync logs/wandb/offline-run-" in told
    [run] = runs(tmp_path / "logs" / "wandb")
    assert [row["val/acc1"] for row in run.rows] == [0.5, 0.75]
    assert run.summed["state"] == "finished"
    assert list((tmp_path / "logs" / "wandb").glob("run-*")) == [], "nothing is left of the attempt"


@pytest.mark.slow
@pytest.mark.parametrize("end", ["dies", "falls silent"])
def test_a_server_that_is_lost_while_the_run_lasts_costs_seconds(tmp_path, monkeypatch, end):
    with serving(ANSWERS) as (url, die, fall_silent), scripted(tmp_path, monkeypatch, url, "input()") as process:
        lines = read_until(process, "begun")
        assert any(line.startswith(f"W&B: {url}/me/fvit/runs/") for line in lines), lines
        {"dies": die, "falls silent": fall_silent}[end]()
        print(file=process.stdin, flush=True)
        lines = read_until(process, "closed")
        assert process.wait() == 0
    told = "".join(lines)
    assert "no artifact is made of the data set" in told
    assert "no artifact is made of checkpoints" in told
    took = {line.split()[0]: float(line.split()[1]) for line in lines if line.startswith(("data", "closed"))}
    assert took["data"] < 10
    assert took["closed"] < 25
    [kept] = (tmp_path / "logs" / "wandb").glob("run-*/*.wandb")
    kept.parent.rename(kept.parent.with_name(f"offline-{kept.parent.name}"))
    [run] = runs(tmp_path / "logs" / "wandb")
    assert [row["val/acc1"] for row in run.rows] == [0.5, 0.75], "wandb sync has all of it"


@pytest.mark.slow
def test_a_server_that_takes_runs_and_no_artifacts_has_the_run(tmp_path, monkeypatch):
    with serving(ANSWERS | REFUSALS) as (url, _, _), scripted(tmp_path, monkeypatch, url) as process:
        lines = read_until(process, "closed")
        assert process.wait() == 0
    assert "Traceback" not in "".join(lines)


def test_what_wandb_refuses_is_told_and_the_run_goes_on(tmp_path, monkeypatch, caplog):
    def refuse(*arguments, **options):
        raise OSError("no room for a copy")

    monkeypatch.setattr("fvit.loggers.wandb_artifacts.use_dataset", refuse)
    kept = logger(tmp_path, tmp_path / "run")
    kept.log_dataset("digits", {"train_images": 8}, None)
    kept.log_metrics({"a": 1.0}, 0)
    kept.close(SimpleNamespace(checkpoint_callbacks=[]), {}, 0)
    assert "log_dataset failed (no room for a copy): the run goes on" in caplog.text
    [run] = runs(tmp_path / "logs" / "wandb")
    assert (run.rows[0]["a"], run.summed["state"]) == (1.0, "finished")


@pytest.mark.parametrize(
    ("mode", "options", "message"),
    [
        ("offline", {"id": "a/b"}, "logger.wandb: Run ID cannot contain the characters"),
        ("offline", {"entity": ["me"]}, r"W&B does not take entity=\['me'\]: input should be a valid string"),
        ("somehow", {}, "WANDB_MODE=somehow must be online, offline or disabled"),
        ("shared", {}, "WANDB_MODE=shared must be"),
    ],
)
def test_what_wandb_refuses_stops_the_run_before_it_begins(tmp_path, monkeypatch, mode, options, message):
    monkeypatch.setenv("WANDB_MODE", mode)
    with pytest.raises(ConfigError, match=message):
        logger(tmp_path, tmp_path / "run", **options).log_metrics({"a": 1.0}, 0)


def test_an_old_name_of_offline_is_offline_and_says_so(tmp_path, monkeypatch, capsys):
    monkeypatch.setenv("WANDB_MODE", "dryrun")
    monkeypatch.chdir(tmp_path)
    RunLogger("my logs", "fvit", "a", "run").experiment.finish()
    told = capsys.readouterr().out
    assert "W&B's mode is offline, so this run stays offline in 'my logs/wandb/offline-run-" in told
    assert "look at it with `wandb leet 'my logs/wandb'`" in told, "to be copied"


KILL_CORE = """
import os, signal, subprocess
children = subprocess.run(["ps", "--ppid", str(os.getpid()), "-o", "pid=,comm="], capture_output=True, text=True).stdout
[core] = [line.split()[0] for line in children.splitlines() if "wandb-core" in line]
os.kill(int(core), signal.SIGKILL)
time.sleep(0.5)
"""


@pytest.mark.slow
def test_a_run_goes_on_without_wandbs_own_process(tmp_path):
    again = "logger = RunLogger('logs', 'fvit', 'next', 'next')\nlogger.log_metrics({'a': 1.0}, 0)\n"
    script = SCRIPT.replace("{between}", KILL_CORE) + again + "logger.close(Trainer, {}, 0)"
    done = subprocess.run([sys.executable, "-c", script], cwd=tmp_path, capture_output=True, text=True, timeout=100)
    assert "closed" in done.stdout, done.stderr
    assert "the run goes on, without W&B" in done.stderr
    assert done.returncode == 0
    assert runs(tmp_path / "logs" / "wandb")[-1].rows[0]["a"] == 1.0, "the next job of a sweep is not affected"
