"""Preparations that were interrupted, or are already complete."""

import multiprocessing
import os
import signal
import time
from contextlib import contextmanager
from pathlib import Path

import pytest
from filelock import FileLock

from fvit.data.images import DataError
from fvit.data.prepare import write as writing
from fvit.data.sources import Source
from tests.data.prepare.folders import CLASSES, Encoded, contents, prepared, source


class Slow(Encoded):
    def read(self, index):
        time.sleep(0.02)
        return super().read(index)


def _killed(out, workers, after):
    """Prepare, and be killed after that many images."""
    count = 0

    @contextmanager
    def progress(total, done):
        def advance(more):
            nonlocal count
            count += more
            if count == after:
                os.kill(os.getpid(), signal.SIGKILL)

        yield advance

    prepared(out, Source(Slow(23), Slow(7, 1000), CLASSES), workers, progress=progress)


@pytest.mark.parametrize("workers", [0, pytest.param(2, marks=pytest.mark.slow)])
def test_killed_preparation_resumes_and_gives_the_same_bytes(tmp_path, workers):
    process = multiprocessing.get_context("fork").Process(target=_killed, args=(tmp_path / "out", workers, 17))
    process.start()
    process.join(60)
    assert process.exitcode == -signal.SIGKILL
    with FileLock(tmp_path / "out/.progress/lock"):  # which its workers hold until they notice
        before = {name for name in contents(tmp_path / "out") if name.endswith(".tar")}
    assert before
    assert "manifest.json" not in contents(tmp_path / "out")
    if not workers:
        assert [name for name in contents(tmp_path / "out") if name.endswith(".partial")]
    opened = []

    @contextmanager
    def progress(total, done):
        opened.append((total, done))
        yield lambda count: None

    times = {name: (tmp_path / "out" / name).stat().st_mtime_ns for name in before}
    prepared(tmp_path / "out", workers=2, progress=progress)
    assert opened[0][0] == 30
    assert 0 < opened[0][1] < 30
    kept = [name for name in before if (tmp_path / "out" / name).stat().st_mtime_ns == times[name]]
    assert kept
    prepared(tmp_path / "direct")
    assert contents(tmp_path / "out") == contents(tmp_path / "direct")


class Interrupted(BaseException):
    pass


@pytest.mark.parametrize("step", ["rename", "fsync", "rmtree"])
def test_interruption_at_any_step_can_be_resumed(tmp_path, monkeypatch, step):
    """Interrupted at the first, second, … call."""
    prepared(tmp_path / "direct")
    owner, name = {"rename": (Path, "replace"), "fsync": (os, "fsync"), "rmtree": (writing.shutil, "rmtree")}[step]
    real, stops = getattr(owner, name), 0
    for at in (1, 2, 5, 8, 12, 17, 18, 19):
        out, calls = tmp_path / f"out{at}", [0]

        def stop(*arguments, calls=calls, at=at):
            calls[0] += 1
            if calls[0] == at:
                raise Interrupted
            return real(*arguments)

        with monkeypatch.context() as patch:
            patch.setattr(owner, name, stop)
            try:
                prepared(out)
            except Interrupted:
                stops += 1
            else:
                break
        prepared(out)
        assert contents(out) == contents(tmp_path / "direct")
    assert stops == {"rename": 7, "fsync": 7, "rmtree": 1}[step], "of 18 calls, and one of rmtree"


def test_complete_preparation_is_left_alone(tmp_path):
    prepared(tmp_path / "out")
    before = contents(tmp_path / "out")
    assert prepared(tmp_path / "out")[1] is None
    assert contents(tmp_path / "out") == before


@pytest.mark.parametrize("complete", [True, False])
@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"resize": 25}, "resize was 20 and is now 25"),
        ({"resize": None}, "resize was 20 and is now None"),
        ({"quality": 81}, "quality was 80 and is now 81"),
        ({"shard_size": 6}, "shard_size was 5 and is now 6"),
        ({"images": source(train=24)}, "train_images was 23 and is now 24"),
    ],
)
def test_other_settings_in_the_same_folder_are_rejected(tmp_path, complete, options, message):
    if complete:
        prepared(tmp_path / "out")
    else:
        with pytest.raises(DataError):
            prepared(tmp_path / "out", source(bad=(3,)), skip_bad=False)
    before = contents(tmp_path / "out")
    with pytest.raises(DataError, match=f"was written with other settings: .*{message}"):
        prepared(tmp_path / "out", **options)
    assert contents(tmp_path / "out") == before


def test_folder_with_other_content_is_rejected(tmp_path):
    (tmp_path / "thesis.tex").write_text("")
    with pytest.raises(DataError, match="is not empty and was not written by fvit-prepare"):
        prepared(tmp_path)
    assert list(tmp_path.iterdir()) == [tmp_path / "thesis.tex"]


def test_concurrent_preparation_is_rejected(tmp_path, monkeypatch):
    monkeypatch.setattr(writing, "_LOCK_SECONDS", 0.1)
    (tmp_path / "out/.progress").mkdir(parents=True)
    with FileLock(tmp_path / "out/.progress/lock"), pytest.raises(DataError, match="another process is writing to"):
        prepared(tmp_path / "out")
