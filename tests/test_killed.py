"""After two kill -9 within an epoch, the same command resumes, and ends with the bits of a run that was not killed."""

import itertools
import json
import os
import signal
import subprocess
import sys
from pathlib import Path

import pytest

from tests.data.tars import noise, write_set
from tests.killed import VARIABLE
from tests.stopped import NOISY, curve, differences, last

pytestmark = pytest.mark.slow

ROOT = Path(__file__).parents[1]
RUN = (
    *NOISY,
    "augment=deit",
    "global_batch_size=8",
    "trainer.max_epochs=2",
    "++trainer.limit_train_batches=6",
    "callbacks.last.every_n_train_steps=2",
    "+callbacks.kill._target_=tests.killed.KillAt",
    "ckpt_path=last",
)


def _folder(root):
    for split, count in (("train", 24), ("val", 3)):
        for label, name in enumerate(("ant", "bee")):
            (root / split / name).mkdir(parents=True)
            for number in range(count):
                (root / split / name / f"{number}.jpg").write_bytes(
                    noise(1000 * label + number + (split == "val") * 500)
                )
    return ["data=folder", f"data.root={root}", "data.img_size=32"]


def _shards(root):
    labels = [0, 1, 2, 3, 4, 5]
    write_set(root, train=[labels] * 8, val=[labels])
    return ["data=imagenet", f"data.root={root}", "data.img_size=32", f"data.cache_dir={root / 'cache'}"]


SOURCES = {
    "digits": lambda root: ["data=digits", "+trainer.limit_val_batches=2"],
    "folder": _folder,
    "shards": _shards,
}
MOMENTS = [
    ("on_train_batch_start:4:0", "writing:2:0"),
    ("on_train_batch_end:5:{last}", "on_validation_batch_end:1:0"),
    ("writing:1:0", "on_train_batch_end:3:{last}"),
    ("on_before_optimizer_step:3:{last}", "on_train_epoch_end:1:0"),
    ("writing:2:0", "on_validation_start:1:{last}"),
    ("on_train_batch_start:1:0", "on_train_batch_start:6:{last}"),
]
"""The first and the second kill, both in the first epoch."""


@pytest.fixture(scope="module")
def sources(tmp_path_factory):
    """Overrides of each source, and the runs that were not killed."""
    place = tmp_path_factory.mktemp("sources")
    return {name: make(place / name) for name, make in SOURCES.items()}, {}


def start(folder, overrides, processes, moment=None):
    """Run the command in its own process group, to be killed at `moment`; returns its stdout."""
    hardware = ["hardware=ddp_cpu"] if processes == 2 else []
    environment = {**os.environ, "OMP_NUM_THREADS": "1", "PYTHONPATH": os.pathsep.join([str(ROOT), *sys.path])}
    environment.pop("LOCAL_RANK", None)
    done = subprocess.run(
        [sys.executable, "-m", "fvit.train", *RUN, *overrides, *hardware, f"hydra.run.dir={folder}"],
        env={**environment, **({} if moment is None else {VARIABLE: moment})},
        cwd=folder.parent,
        start_new_session=True,
        capture_output=True,
        text=True,
        timeout=300,
    )
    assert done.returncode == (0 if moment is None else -signal.SIGKILL), done.stdout + done.stderr
    return done.stdout


CASES = [(name, workers, processes) for name in SOURCES for processes in (1, 2) for workers in (0, 2)]


# Shifted by one from source to source: else a number of workers would only get every second moment.
KILLS = {case: MOMENTS[(number + number // 4) % len(MOMENTS)] for number, case in enumerate(CASES)}


# tests/callbacks/test_resume_state.py has one process without workers, and tests/data/test_resume.py the images.
IN_CI = (("folder", 2, 2),)


def test_each_hardware_is_killed_while_writing_a_checkpoint():
    assert set(KILLS.values()) == set(MOMENTS)
    for hardware in itertools.product((0, 2), (1, 2)):
        kills = [moments for (_, *shape), moments in KILLS.items() if tuple(shape) == hardware]
        assert any(moment.startswith("writing") for moments in kills for moment in moments)


@pytest.mark.parametrize(
    ("name", "workers", "processes", "moments"),
    [
        pytest.param(*case, moments, marks=[] if case in IN_CI else [pytest.mark.exhaustive])
        for case, moments in KILLS.items()
    ],
    ids=lambda value: str(value) if not isinstance(value, tuple) else None,
)
def test_a_run_killed_twice_within_an_epoch_ends_with_the_same_bits(
    sources, tmp_path, tmp_path_factory, name, workers, processes, moments
):
    overrides, whole = sources
    if (name, processes) not in whole:  # workers change nothing
        whole[name, processes] = tmp_path_factory.mktemp("whole") / "run"
        start(whole[name, processes], [*overrides[name], "data.num_workers=0"], processes)
    reference = whole[name, processes]
    command = (tmp_path / "run", [*overrides[name], f"data.num_workers={workers}"], processes)
    for moment in moments:
        start(*command, moment.format(last=processes - 1))
        assert not (tmp_path / "run" / "checkpoints" / "last.ckpt").is_file() or last(tmp_path / "run")["epoch"] == 0
    assert "resuming from" in start(*command)
    expected = last(reference)
    expected["datamodule_hyper_parameters"]["num_workers"] = workers
    assert differences(expected, last(tmp_path / "run")) == []
    assert curve(tmp_path / "run") == curve(reference)
    results = [json.loads((run / "metrics.json").read_text()) for run in (reference, tmp_path / "run")]
    assert results[0]["status"] == results[1]["status"] == "finished"
    assert results[0]["metrics"]["best/val/acc1"] == results[1]["metrics"]["best/val/acc1"]


@pytest.mark.exhaustive  # tests/launch/test_processes.py kills the parent of ranks that do not train
def test_ranks_die_with_their_killed_parent_and_the_same_command_resumes(sources, tmp_path):
    command = (tmp_path / "run", [*sources[0]["digits"], "data.num_workers=2"], 2)
    start(*command, "on_train_batch_start:5:1:launcher")  # returns when no rank holds its stdout any more
    assert json.loads((tmp_path / "run" / "metrics.json").read_text())["status"] == "running"
    assert "resuming from" in start(*command)
    assert json.loads((tmp_path / "run" / "metrics.json").read_text())["status"] == "finished"
