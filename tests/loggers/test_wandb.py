"""The W&B logger alone: offline, and against a server on this machine that refuses, dies or hangs."""

import json
import subprocess
import sys
from contextlib import contextmanager
from pathlib import Path
from types import SimpleNamespace

import pytest
import torch
import wandb

from fvit.config.errors import ConfigError
from fvit.launch.run_dir import RunDir
from fvit.loggers.wandb import RunLogger
from tests.callbacks.test_resume_state import KillAt
from tests.loggers.wandb_runs import runs
from tests.loggers.wandb_stub import ANSWERS, REFUSALS, serving
from tests.training.fitting import FAKE, fit

KEY = "0123456789" * 4


def logger(tmp_path, run_dir="run", name="ViT, additive, seed 0", **options):
    return RunLogger(tmp_path / "logs", "fvit", name, tmp_path / run_dir, **options)


def close(logger, *checkpoints, code=0, **options):
    logger.close(SimpleNamespace(checkpoint_callbacks=checkpoints), {}, code, **options)


@pytest.mark.slow
def test_run_keeps_its_id_until_it_starts_from_scratch(tmp_path):
    ids = []
    for ckpt_path in (None, str(tmp_path / "run"), None):
        one = logger(tmp_path)
        trainer = SimpleNamespace(is_global_zero=True, loggers=[one], callbacks=[], checkpoint_callbacks=[])
        source = SimpleNamespace(fingerprint=dict, records={})
        hparams = type("HParams", (dict,), {"__getattr__": dict.__getitem__})(name="digits")
        with RunDir({"output_dir": str(tmp_path / "run"), "ckpt_path": ckpt_path}, trainer) as run:
            assert not isinstance(one.experiment, wandb.Run)  # it waits
            run.log_start(SimpleNamespace(source=source, hparams=hparams), {})
            assert one._wandb_init["resume"] == "allow"
            ids.append(one.version)
            assert (tmp_path / "run" / "wandb_id").read_text() == ids[-1]
    assert ids[0] == ids[1] != ids[2]


def test_folder_is_that_of_wandb_dir_and_an_unwritable_one_is_explained(tmp_path, compose_config, monkeypatch):
    assert compose_config("logger=wandb")["logger"]["wandb"]["save_dir"] == "logs"
    monkeypatch.setenv("WANDB_DIR", str(tmp_path / "elsewhere"))
    assert compose_config("logger=wandb")["logger"]["wandb"]["save_dir"] == str(tmp_path / "elsewhere")
    (tmp_path / "logs").write_text("a file")
    problem = r"W&B cannot write to .*/wandb: Not a directory; "
    with pytest.raises(ConfigError, match=rf"{problem}set logger\.wandb\.save_dir=DIR$"):
        _ = logger(tmp_path).experiment
    monkeypatch.setenv("WANDB_DIR", str(tmp_path / "logs"))
    with pytest.raises(ConfigError, match=rf"{problem}WANDB_DIR is .*/logs: set it to another folder$"):
        _ = logger(tmp_path).experiment
    monkeypatch.delenv("WANDB_DIR")
    with pytest.raises(ConfigError, match=rf"{problem}set logger\.wandb\.save_dir=DIR, or WANDB_DIR=DIR in the env"):
        _ = logger(tmp_path).experiment
    (tmp_path / "logs").unlink()
    monkeypatch.setattr("os.access", lambda *args: False)  # as for a folder that exists and belongs to someone else
    with pytest.raises(ConfigError, match=r"W&B cannot write to .*logs/wandb: Permission denied"):
        _ = logger(tmp_path).experiment
    assert not (tmp_path / "run").exists()


def test_sweep_is_the_group_and_the_parts_of_the_name_are_tags(tmp_path):
    alone = logger(tmp_path, "runs/one")._wandb_init
    assert (alone["group"], alone["tags"]) == (None, ["ViT", "additive", "seed 0"])
    (tmp_path / "sweep").mkdir()
    (tmp_path / "sweep" / "multirun.yaml").touch()
    job = logger(tmp_path, "sweep/0", name=f"optimizer.lr=1, seed 0, {'x' * 99}", tags=["seed 0", "digits"])._wandb_init
    assert (job["group"], job["tags"]) == ("sweep", ["seed 0", "x" * 64, "digits"])
    assert logger(tmp_path, "sweep/1", group="mine")._wandb_init["group"] == "mine"


@pytest.mark.parametrize(
    ("raised", "code"), [(RuntimeError("broken"), 1), pytest.param(KeyboardInterrupt(), 255, marks=pytest.mark.slow)]
)
def test_failed_run_is_closed_with_its_status_and_its_best_score(compose_config, tmp_path, raised, code):
    class Fail(KillAt):
        def _count(self, *args):
            self.left -= 1
            if self.left == 0:
                raise raised

    config = compose_config(*FAKE, "logger=wandb", f"logger.wandb.save_dir={tmp_path}", "trainer.max_epochs=2")
    with pytest.raises(type(raised)):
        fit(config, Fail("on_train_batch_start", 6))
    [run] = runs(tmp_path / "wandb")
    assert (run.summed["state"], run.summed["exit_code"]) == ("failed", code)
    assert run.summed["summary"]["best/val/acc1"] == run.summed["summary"]["val/acc1"]
    assert run.summed["summary"]["cost/params"] > 0


def test_preempted_run_is_marked_as_preempting(tmp_path):
    preempted = logger(tmp_path)
    preempted.log_metrics({"a": 1.0}, 0)
    close(preempted, code=1, preempted=True)
    [run] = runs(tmp_path / "logs" / "wandb")
    assert run.summed["exit_code"] == 1
    assert "preempting" in run.kinds


def test_dataset_is_an_artifact_whose_version_is_its_description(tmp_path):
    for index, (images, root) in enumerate([(7, "here"), (7, "s3://there"), (8, "here")]):
        one = logger(tmp_path, str(index))
        one.log_dataset("my images", {"train_images": images}, root)
        close(one)
    found = runs(tmp_path / "logs" / "wandb")
    used = [artifact for run in found for artifact in run.artifacts]
    assert [(a["type"], a["name"], a["use_after_commit"]) for a in used] == [("dataset", "data-my-images", True)] * 3
    assert used[0]["digest"] == used[1]["digest"] != used[2]["digest"], "another root is not another version"
    assert json.loads(used[1]["metadata"]) == {"train_images": 7, "root": "s3://there"}
    assert [[file["path"] for file in a["manifest"]["contents"]] for a in used] == [["dataset.json"]] * 3
    assert found[2].summed["config"]["dataset"] == {"train_images": 8}


@pytest.mark.parametrize(("artifacts", "expected"), [("best", ["best"]), ("all", ["best", "last"])])
def test_checkpoints_are_versions_of_one_model_with_an_alias(tmp_path, monkeypatch, artifacts, expected):
    staged = tmp_path / "logs" / "wandb" / "staged"
    if artifacts == "all":
        staged = tmp_path / "elsewhere"
        monkeypatch.setenv("WANDB_DATA_DIR", str(staged))
    callbacks = []
    for name, monitor in (("best", "val/acc1"), ("last", None), ("missing", None), ("", "val/loss")):
        path = tmp_path / f"{name}.ckpt" if name else ""
        if name in ("best", "last"):
            torch.save({"epoch": 3, "global_step": 99, "metrics": {"val/acc1": 0.5}}, path)
        callbacks.append(SimpleNamespace(monitor=monitor, best_model_path=str(path)))
    one = logger(tmp_path, artifacts=artifacts)
    one.log_metrics({"a": 1.0}, 0)
    close(one, *callbacks)
    [run] = runs(tmp_path / "logs" / "wandb")
    assert [sorted(artifact["aliases"]) for artifact in run.artifacts] == [[alias, "latest"] for alias in expected]
    assert {artifact["name"] for artifact in run.artifacts} == {f"model-{run.run['run_id']}"}
    for artifact, alias in zip(run.artifacts, expected, strict=True):
        [file] = artifact["manifest"]["contents"]
        assert file["path"] == f"{alias}.ckpt"
        assert staged in Path(file["local_path"]).parents
        assert torch.load(file["local_path"])["epoch"] == 3
        assert json.loads(artifact["metadata"]) == {"epoch": 3, "global_step": 99, "val/acc1": 0.5}


@pytest.mark.parametrize("save_code", [True, False])
def test_own_code_is_the_code_of_the_run(tmp_path, save_code):
    (tmp_path / "code" / "lab").mkdir(parents=True)
    (tmp_path / "code" / "lab" / "mine.py").write_text("after = 2")
    (tmp_path / "code" / "1-project.diff").write_text("+after = 2")
    one = logger(tmp_path, save_code=save_code)
    one.log_metrics({"a": 1.0}, 0)
    one.log_code(tmp_path / "code")
    close(one)
    [run] = runs(tmp_path / "logs" / "wandb")
    assert [artifact["type"] for artifact in run.artifacts] == ["code"] * save_code
    paths = {file["path"] for artifact in run.artifacts for file in artifact["manifest"]["contents"]}
    assert paths == ({"1-project.diff", "lab/mine.py"} if save_code else set())


def test_refusal_is_a_warning(tmp_path, monkeypatch, caplog):
    one = logger(tmp_path)
    one.log_metrics({"a": 1.0}, 0)

    def refuse(*arguments, **options):
        raise OSError("no space for a copy")

    monkeypatch.setattr(one.experiment, "_log_artifact", refuse)
    one.log_dataset("digits", {"train_images": 8}, None)
    close(one)
    assert "log_dataset failed (no space for a copy); the run continues" in caplog.text
    [run] = runs(tmp_path / "logs" / "wandb")
    assert (run.rows[0]["a"], run.summed["state"]) == (1.0, "finished")


@pytest.mark.parametrize(
    ("mode", "options", "message"),
    [
        ("offline", {"id": "a/b"}, "logger.wandb: Run ID cannot contain the characters"),
        ("offline", {"entity": ["me"]}, r"W&B: entity=\['me'\]: Input should be a valid string"),
        ("offline", {"entty": "me"}, r"unknown key logger\.wandb\.entty='me', did you mean entity"),
        ("offline", {"mode": "online"}, r"logger\.wandb\.mode='online' cannot be set"),
        ("somehow", {}, "WANDB_MODE=somehow must be online, offline or disabled"),
        ("shared", {}, "WANDB_MODE=shared must be"),
    ],
)
def test_invalid_option_is_an_error_before_training(tmp_path, monkeypatch, mode, options, message):
    monkeypatch.setenv("WANDB_MODE", mode)
    with pytest.raises(ConfigError, match=message):
        logger(tmp_path, **options).log_metrics({"a": 1.0}, 0)


def test_offline_run_prints_commands_to_copy(tmp_path, monkeypatch, capsys):
    monkeypatch.setenv("WANDB_MODE", "dryrun")  # an old name of offline
    monkeypatch.chdir(tmp_path)
    RunLogger("my logs", "fvit", "a", "run").experiment.finish()
    printed = capsys.readouterr().out
    assert "W&B: W&B's mode is offline, so this run stays offline in 'my logs/wandb/offline-run-" in printed
    assert "look at it with `wandb leet 'my logs/wandb'`, send it with `wandb sync 'my logs/wandb/" in printed


SCRIPT = """
import sys, time
import torch
from fvit.loggers.wandb import RunLogger
logger = RunLogger("logs", "fvit", "test", "run", artifacts="all")
start = time.monotonic()
logger.log_metrics({"val/acc1": 0.5}, 3)
print("started", time.monotonic() - start, flush=True)
{between}
start = time.monotonic()
logger.log_dataset("digits", {"train_images": 8}, None)
print("dataset", time.monotonic() - start, flush=True)
class Best:
    monitor, best_model_path = "val/acc1", "best.ckpt"
torch.save({"epoch": 0, "global_step": 1}, "best.ckpt")
class Trainer:
    checkpoint_callbacks = [Best]
logger.log_metrics({"val/acc1": 0.75}, 4)
start = time.monotonic()
logger.close(Trainer, {}, 0)
print("closed", time.monotonic() - start, flush=True)
"""


@contextmanager
def scripted(tmp_path, monkeypatch, url, between=""):
    """A process that logs two rows to the server at `url`."""
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
    """Lines up to the one that starts with `word`."""
    lines = []
    while not lines or not lines[-1].startswith(word):
        line = process.stdout.readline()
        assert line, "".join(lines)
        lines.append(line)
    return lines


def seconds(lines):
    steps = ("started", "dataset", "closed")
    return {line.split()[0]: float(line.split()[1]) for line in lines if line.startswith(steps)}


@pytest.mark.slow
@pytest.mark.parametrize(
    ("answers", "status", "reason"),
    [
        pytest.param(None, None, "does not answer", id="dead"),
        pytest.param({}, 401, "does not accept the API key", id="wrong key", marks=pytest.mark.exhaustive),
        pytest.param(
            {**ANSWERS, "UpsertBucket": "not yours"},
            200,
            "the server does not accept the run (",
            id="no permission",
            marks=pytest.mark.exhaustive,
        ),
    ],
)
def test_useless_server_costs_seconds_and_the_run_stays_offline(tmp_path, monkeypatch, answers, status, reason):
    with serving(answers, status) as (url, die, _):
        if answers is None:
            die()
        with scripted(tmp_path, monkeypatch, url) as process:
            lines = read_until(process, "closed")
    assert sum(seconds(lines).values()) < 20
    [printed] = [line for line in lines if line.startswith("W&B: ")]
    assert reason in printed
    assert "stays offline in logs/wandb/offline-run-" in printed
    [run] = runs(tmp_path / "logs" / "wandb")
    assert [row["val/acc1"] for row in run.rows] == [0.5, 0.75]
    assert run.summed["state"] == "finished"
    assert list((tmp_path / "logs" / "wandb").glob("run-*")) == [], "the failed attempt leaves nothing"


@pytest.mark.slow
@pytest.mark.parametrize("end", ["dies", pytest.param("hangs", marks=pytest.mark.exhaustive)])
def test_server_lost_during_the_run_costs_seconds(tmp_path, monkeypatch, end):
    with serving(ANSWERS) as (url, die, hang), scripted(tmp_path, monkeypatch, url, "input()") as process:
        lines = read_until(process, "started")
        assert any(line.startswith(f"W&B: {url}/me/fvit/runs/") for line in lines), lines
        {"dies": die, "hangs": hang}[end]()
        print(file=process.stdin, flush=True)
        lines = read_until(process, "closed")
        assert process.wait() == 0
    assert "no artifact of the dataset" in "".join(lines)
    assert "no artifact of checkpoints" in "".join(lines)
    took = seconds(lines)
    assert took["dataset"] < 10
    assert took["closed"] < 25
    [kept] = (tmp_path / "logs" / "wandb").glob("run-*/*.wandb")
    kept.parent.rename(kept.parent.with_name(f"offline-{kept.parent.name}"))
    [run] = runs(tmp_path / "logs" / "wandb")
    assert [row["val/acc1"] for row in run.rows] == [0.5, 0.75], "wandb sync can send all of it"


@pytest.mark.slow
def test_server_that_refuses_artifacts_gets_the_run(tmp_path, monkeypatch):
    with serving(ANSWERS | REFUSALS) as (url, _, _), scripted(tmp_path, monkeypatch, url) as process:
        lines = read_until(process, "closed")
        assert process.wait() == 0
    assert "Traceback" not in "".join(lines)


KILL_SERVICE = """
import os, signal, subprocess
children = subprocess.run(["ps", "--ppid", str(os.getpid()), "-o", "pid=,comm="], capture_output=True, text=True).stdout
[core] = [line.split()[0] for line in children.splitlines() if "wandb-core" in line]
os.kill(int(core), signal.SIGKILL)
time.sleep(0.5)
"""


@pytest.mark.slow
def test_run_survives_the_death_of_the_wandb_service(tmp_path):
    again = "logger = RunLogger('logs', 'fvit', 'next', 'next')\nlogger.log_metrics({'a': 1.0}, 0)\n"
    script = SCRIPT.replace("{between}", KILL_SERVICE) + again + "logger.close(Trainer, {}, 0)"
    done = subprocess.run([sys.executable, "-c", script], cwd=tmp_path, capture_output=True, text=True, timeout=100)
    assert "closed" in done.stdout, done.stderr
    assert "the run continues without W&B" in done.stderr
    assert done.returncode == 0
    assert runs(tmp_path / "logs" / "wandb")[-1].rows[0]["a"] == 1.0, "the next job of a sweep is not affected"
