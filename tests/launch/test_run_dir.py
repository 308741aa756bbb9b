import errno
import json
import signal
import subprocess
import sys
from contextlib import suppress
from types import SimpleNamespace

import pytest
import torch

from fvit.config.errors import ConfigError, RunError
from fvit.config.recorded import overrides_of
from fvit.launch.record import read_metrics
from fvit.launch.run_dir import RunDir, environment
from fvit.launch.signals import Stopped
from fvit.launch.staging import name


def trainer(**attributes):
    return SimpleNamespace(
        **{"is_global_zero": True, "loggers": [], "callbacks": [], "checkpoint_callbacks": [], **attributes}
    )


def data(**hparams):
    hparams = type("HParams", (dict,), {"__getattr__": dict.__getitem__})({"name": "digits", **hparams})
    return SimpleNamespace(hparams=hparams, source=SimpleNamespace(fingerprint=lambda: {"images": 3}, records={}))


class Begun(RunDir):
    """A run that begins at once."""

    def __enter__(self):
        super().__enter__()
        self.log_start(data(), {})
        return self


@pytest.fixture
def run(tmp_path):
    """Makes a `RunDir` at tmp_path / "run"."""

    def make(ckpt_path=None, kind=Begun, **attributes):
        config = {"output_dir": str(tmp_path / "run"), "ckpt_path": ckpt_path, "seed": 1}
        return kind(config, trainer(**attributes))

    return make


def test_finished_run(tmp_path, run):
    folder = tmp_path / "run"
    with run() as entered:
        assert read_metrics(folder)["status"] == "running"
        assert entered.finish({"val/acc1": 0.5}) == {"val/acc1": 0.5}
    saved = read_metrics(folder)
    assert (saved["status"], saved["error"], saved["metrics"]) == ("finished", None, {"val/acc1": 0.5})
    assert "seed: 1\n" in (folder / "config.yaml").read_text()
    assert json.loads((folder / "environment.json").read_text())["packages"]["torch"]
    written = {path.name for path in folder.iterdir()} - {"code"}  # of other tests
    assert written == {"config.yaml", "environment.json", "metrics.json"}


def test_pruned_run(tmp_path, run):
    with run(callbacks=[SimpleNamespace(), SimpleNamespace(pruned=True)]) as entered:
        entered.finish({})
    assert read_metrics(tmp_path / "run")["status"] == "pruned"


@pytest.mark.parametrize(
    ("error", "status", "message"),
    [
        (RunError("the loss is gone"), "failed", "the loss is gone"),
        (ZeroDivisionError("by zero"), "failed", "ZeroDivisionError: by zero"),
        (KeyboardInterrupt(), "interrupted", "interrupted: {}"),
        (Stopped(signal.SIGTERM, "at step 3"), "interrupted", "at step 3"),
    ],
    ids=str,
)
def test_run_that_ends_early_is_not_finished(tmp_path, run, error, status, message):
    with pytest.raises(type(error)), run():
        raise error
    saved = read_metrics(tmp_path / "run")
    assert (saved["status"], saved["error"]) == (status, message.format(tmp_path / "run"))


def test_full_disk_is_explained(tmp_path, run):
    with pytest.raises(RunError, match="the disk is full: cannot write to"), run():
        raise OSError(errno.ENOSPC, "No space left on device")
    assert read_metrics(tmp_path / "run")["error"].startswith("the disk is full")


@pytest.mark.parametrize("stopped", [None, Stopped(signal.SIGUSR1, "saved it")], ids=["Ctrl-C", "signal"])
def test_lightnings_exit_is_an_interrupt_again(tmp_path, run, stopped):
    kind = KeyboardInterrupt if stopped is None else Stopped
    with pytest.raises(kind), run(callbacks=[SimpleNamespace(stopped=stopped)]):
        sys.exit(1)
    saved = read_metrics(tmp_path / "run")
    assert (saved["status"], saved["error"]) == (
        "interrupted",
        "saved it" if stopped else f"interrupted: {tmp_path}/run",
    )


class Logger:
    def __init__(self):
        self.calls = []

    def __getattr__(self, name):
        return lambda *arguments: self.calls.append((name, *arguments))


@pytest.mark.parametrize(
    ("error", "status", "code", "preempted"),
    [
        (None, "success", 0, False),
        (ValueError(), "failed", 1, False),
        (KeyboardInterrupt(), "failed", 255, False),
        (Stopped(signal.SIGTERM), "failed", 1, True),
    ],
    ids=repr,
)
def test_loggers_get_the_results_and_are_closed_with_the_status(run, error, status, code, preempted):
    logger = Logger()
    best = SimpleNamespace(monitor="val/acc1", best_model_score=torch.tensor(0.75))
    entered = run(loggers=[logger], checkpoint_callbacks=[best, SimpleNamespace(monitor=None)])
    with suppress(BaseException), entered:
        entered.finish({"val/acc1": 0.5})
        if error is not None:
            raise error
    assert logger.calls[3:] == [
        ("log_summary", {"val/acc1": 0.5}),
        ("finalize", status),
        ("close", entered.trainer, {"best/val/acc1": 0.75}, code, preempted),
    ]


@pytest.mark.parametrize(
    ("options", "dataset"),
    [
        ({"name": "digits"}, ("digits", None)),
        ({"name": "folder", "root": "/data/birds"}, ("birds", "/data/birds")),
        ({"name": "torchvision", "dataset": "EMNIST", "root": "/data"}, ("EMNIST", "/data")),
    ],
    ids=str,
)
def test_loggers_get_configuration_dataset_and_cost(run, options, dataset):
    logger = Logger()
    with run(kind=RunDir, loggers=[logger]) as entered:
        entered.log_start(data(**options), {"cost/params": 7}, model={"name": "vit"})
        name, root = dataset
        assert logger.calls == [
            ("log_hyperparams", {**entered.config, "model": {"name": "vit"}}),
            ("log_dataset", name, {"images": 3}, root),
            ("log_summary", {"cost/params": 7}),
        ]


@pytest.mark.parametrize("error", [None, ValueError("wrong option"), KeyboardInterrupt()], ids=repr)
def test_nothing_changes_before_the_run_begins(tmp_path, run, error):
    """In a new directory that is before the first batch, in another one after it."""
    start, logger = SimpleNamespace(begin_run=None), Logger()
    folder = tmp_path / "run"
    for new in (True, False):
        before = {path: path.read_bytes() for path in folder.rglob("*.*")}
        with suppress(ValueError, KeyboardInterrupt), run(kind=RunDir, callbacks=[start], loggers=[logger]) as entered:
            entered.log_start(data(), {})
            if not new:
                start.begin_run(after_a_batch=False)
            assert logger.calls == []
            assert logger.waiting
            assert {path: path.read_bytes() for path in folder.rglob("*.*") if path.name != ".lock"} == before
            if error is not None:
                raise error
            start.begin_run(after_a_batch=not new)
            assert not logger.waiting
            assert read_metrics(folder)["status"] == "running"
        logger.calls.clear()
        if error is not None:
            assert {path: path.read_bytes() for path in folder.rglob("*.*")} == before
            with run() as entered:
                entered.finish({"val/acc1": 0.5})


def test_loggers_of_a_run_that_does_not_begin_are_not_closed(run):
    logger = Logger()
    with suppress(ValueError), run(kind=RunDir, loggers=[logger]):
        raise ValueError
    assert logger.calls == []


def test_run_that_does_not_begin_leaves_no_directory_of_its_own_and_an_old_lock(tmp_path, run):
    with suppress(ValueError), run(kind=RunDir):
        raise ValueError
    assert not (tmp_path / "run").exists()
    (tmp_path / "run").mkdir()
    (tmp_path / "run" / ".lock").touch()  # of a run that was killed
    with suppress(ValueError), run(kind=RunDir):
        raise ValueError
    assert [path.name for path in (tmp_path / "run").iterdir()] == [".lock"]


def test_resumed_run_keeps_its_metrics_until_it_has_others(tmp_path, run):
    with run() as entered:
        entered.finish({"val/acc1": 0.5})
    last = tmp_path / "run" / "checkpoints" / "last.ckpt"
    with suppress(KeyboardInterrupt), run(ckpt_path=last):
        assert read_metrics(tmp_path / "run")["metrics"] == {"val/acc1": 0.5}
        raise KeyboardInterrupt
    assert read_metrics(tmp_path / "run")["metrics"] == {"val/acc1": 0.5}


def test_traceback_of_an_unexpected_error_is_kept_until_the_next_start(tmp_path, run):
    path = tmp_path / "run" / "traceback.log"
    with pytest.raises(ZeroDivisionError), run():
        1 / 0  # noqa: B018
    assert path.read_text().endswith("ZeroDivisionError: division by zero\n")
    assert "1 / 0" in path.read_text()
    with run():
        assert not path.exists()


def test_other_ranks_write_nothing(tmp_path, run):
    with run(is_global_zero=False):
        pass
    assert not (tmp_path / "run").exists()


def test_directory_in_use_is_refused_and_left_alone(tmp_path, run):
    folder = tmp_path / "run"
    folder.mkdir()
    body = (
        f"from pathlib import Path; from fvit.launch.lock import held; h = held(Path({str(folder)!r})); h.__enter__()"
    )
    with subprocess.Popen(
        [sys.executable, "-c", f"{body}; print(flush=True); input()"], stdin=subprocess.PIPE, stdout=subprocess.PIPE
    ) as process:
        process.stdout.readline()
        with pytest.raises(RunError, match="another process"), run():
            pass
        process.communicate(b"\n")
    assert not (folder / "metrics.json").exists()


def test_a_resumed_start_that_fails_without_a_checkpoint_leaves_the_overrides_of_before(tmp_path, run, caplog):
    """A mistake that shows only after the first batch would otherwise be repeated by the next, correct command."""
    folder = tmp_path / "run"
    last = folder / "checkpoints" / "last.ckpt"

    def attempt(override, error=None, save=False):
        staged = folder / name()
        staged.mkdir(parents=True, exist_ok=True)
        for file in ("config.yaml", "hydra.yaml", "overrides.yaml"):
            (staged / file).write_text(f"- {override}\n")
        with suppress(ValueError, KeyboardInterrupt), run(ckpt_path=last):
            assert overrides_of(folder) == [override]
            if save:
                last.parent.mkdir(exist_ok=True)
                last.write_text(override)
            if error is not None:
                raise error
        return overrides_of(folder), (folder / ".hydra" / "config.yaml").read_text()

    before = attempt("lr=1", save=True)
    assert attempt("lr=1e9", ValueError()) == before
    assert read_metrics(folder)["status"] == "failed"
    assert f"{folder} keeps the overrides that it had before this start" in caplog.text
    assert attempt("lr=2", KeyboardInterrupt())[0] == ["lr=2"]  # of which the command that resumes is printed
    assert attempt("lr=3", ValueError(), save=True)[0] == ["lr=3"]


def test_the_record_of_another_command_is_not_replaced(tmp_path):
    kinds = {"a training run": {"optimizer": {}}, "an evaluation": {}}
    for first, second in (kinds, reversed(kinds)):
        configs = [{"output_dir": str(tmp_path / first), "seed": 1, **kinds[kind]} for kind in (first, second)]
        with Begun(configs[0], trainer()) as entered:
            entered.finish({"val/acc1": 0.5})
        record = read_metrics(tmp_path / first)
        refusal = f"{first} holds the record of {first}, which {second} would replace: set hydra.run.dir"
        with pytest.raises(ConfigError, match=refusal), Begun(configs[1], trainer()):
            pass
        assert read_metrics(tmp_path / first) == record
        with Begun(configs[0], trainer()):
            pass


def test_environment_names_command_versions_and_machine():
    facts = environment()
    assert {"time", "command", "git_commit", "git_dirty", "python", "machine", "packages"} <= set(facts)


def test_resumed_run_keeps_its_first_environment_and_continues_its_seconds(tmp_path, run):
    folder = tmp_path / "run"
    with run() as entered:
        entered.started -= 100
    first = json.loads((folder / "environment.json").read_text())
    for starts in (1, 2):
        with run(ckpt_path=folder / "checkpoints" / "last.ckpt") as entered:
            assert 100 * starts <= entered.seconds < 100 * starts + 50
            entered.started -= 100
        assert 100 * (starts + 1) <= read_metrics(folder)["seconds"] < 100 * starts + 150
        noted = json.loads((folder / "environment.json").read_text())
        assert len(noted.pop("resumed")) == starts
        assert noted == first
    with run() as entered:
        assert entered.seconds < 50
    assert "resumed" not in json.loads((folder / "environment.json").read_text())


def test_accepted_overrides_are_noted(tmp_path, run):
    staged = tmp_path / "run" / name()
    staged.mkdir(parents=True)
    for file in ("config.yaml", "hydra.yaml", "overrides.yaml"):
        (staged / file).write_text("- seed=1\n")
    with run():
        pass
    assert (tmp_path / "run" / "overrides.yaml").read_text() == "- seed=1\n"
    assert (tmp_path / "run" / ".hydra" / "config.yaml").is_file()
    assert overrides_of(tmp_path / "run") == ["seed=1"]
