"""What becomes of a preparation that ended early, or was there before."""

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


@pytest.mark.parametrize("workers", [0, 2])
def test_after_a_kill_it_goes_on_and_ends_with_the_same_bytes(tmp_path, workers):
    process = multiprocessing.get_context("fork").Process(target=_killed, args=(tmp_path / "out", workers, 17))
    process.start()
    process.join(60)
    assert process.exitcode == -signal.SIGKILL
    with FileLock(tmp_path / "out/.progress/lock"):  # which its workers hold until they have noticed
        before = {name for name in contents(tmp_path / "out") if name.endswith(".tar")}
    assert before
    assert "manifest.json" not in contents(tmp_path / "out")
    assert [name for name in contents(tmp_path / "out") if name.endswith(".partial")]
    told = []

    @contextmanager
    def progress(total, done):
        told.append((total, done))
        yield lambda count: None

    times = {name: (tmp_path / "out" / name).stat().st_mtime_ns for name in before}
    prepared(tmp_path / "out", workers=2, progress=progress)
    assert told[0][0] == 30
    assert 0 < told[0][1] < 30
    kept = [name for name in before if (tmp_path / "out" / name).stat().st_mtime_ns == times[name]]
    assert kept
    prepared(tmp_path / "direct")
    assert contents(tmp_path / "out") == contents(tmp_path / "direct")


class Interrupted(BaseException):
    pass


@pytest.mark.parametrize("step", ["rename", "fsync", "rmtree"])
def test_an_end_at_any_step_is_made_up_for(tmp_path, monkeypatch, step):
    """Stops at the first, second, … time that something is done to the disk, until nothing is left to do."""
    prepared(tmp_path / "direct")
    owner, name = {"rename": (Path, "replace"), "fsync": (os, "fsync"), "rmtree": (writing.shutil, "rmtree")}[step]
    real, stops = getattr(owner, name), 0
    for at in range(1, 40):
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
    assert stops == {"rename": 18, "fsync": 18, "rmtree": 1}[step]


def test_what_is_complete_is_left_alone(tmp_path):
    prepared(tmp_path / "out")
    before = contents(tmp_path / "out")
    assert prepared(tmp_path / "out").bytes_in is None
    assert contents(tmp_path / "out") == before


@pytest.mark.parametrize("complete", [True, False])
@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"resize": 25}, "resize was 20 and is 25"),
        ({"resize": None}, "resize was 20 and is None"),
        ({"quality": 81}, "quality was 80 and is 81"),
        ({"shard_size": 6}, "shard_size was 5 and is 6"),
        ({"images": source(train=24)}, "train_images was 23 and is 24"),
    ],
)
def test_another_preparation_in_the_same_folder_is_refused(tmp_path, complete, options, message):
    if complete:
        prepared(tmp_path / "out")
    else:
        with pytest.raises(DataError):
            prepared(tmp_path / "out", source(bad=(3,)), bad="fatal")
    before = contents(tmp_path / "out")
    with pytest.raises(DataError, match=f"holds another preparation: .*{message}"):
        prepared(tmp_path / "out", **options)
    assert contents(tmp_path / "out") == before


def test_a_folder_that_holds_something_else_is_refused(tmp_path):
    (tmp_path / "thesis.tex").write_text("")
    with pytest.raises(DataError, match="is not empty and holds no preparation"):
        prepared(tmp_path)
    assert list(tmp_path.iterdir()) == [tmp_path / "thesis.tex"]


def test_two_at_once_are_refused(tmp_path, monkeypatch):
    monkeypatch.setattr(writing, "_PATIENCE", 0.1)
    (tmp_path / "out/.progress").mkdir(parents=True)
    with FileLock(tmp_path / "out/.progress/lock"), pytest.raises(DataError, match="another process is preparing"):
        prepared(tmp_path / "out")
