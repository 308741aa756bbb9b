import errno

import pytest
import torch

from fvit.config import atomic
from fvit.training import checkpoint_io
from fvit.training.checkpoint_io import AtomicCheckpointIO


def _content(path):
    return torch.load(path, weights_only=True)["step"]


def _names(folder):
    return sorted(path.name for path in folder.iterdir())


def test_the_last_one_s_predecessor_is_kept(tmp_path):
    for step in range(4):
        AtomicCheckpointIO().save_checkpoint({"step": step}, tmp_path / "new" / "last.ckpt")
        AtomicCheckpointIO().save_checkpoint({"step": step}, tmp_path / "new" / "best.ckpt")
    folder = tmp_path / "new"
    assert _names(folder) == ["best.ckpt", "last.ckpt", "previous.ckpt"]
    assert [_content(folder / name) for name in _names(folder)] == [3, 3, 2]


@pytest.mark.parametrize("failing", ["save", "fsync"])
def test_what_was_there_stays_until_the_new_one_is_whole(tmp_path, monkeypatch, failing):
    writer = AtomicCheckpointIO()
    for step in range(2):
        writer.save_checkpoint({"step": step}, tmp_path / "last.ckpt")

    def fail(*args):
        assert any(name.startswith("last.ckpt.") for name in _names(tmp_path))
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(*((checkpoint_io.torch, "save") if failing == "save" else (atomic.os, "fsync")), fail)
    with pytest.raises(OSError, match="No space left"):
        writer.save_checkpoint({"step": 2}, tmp_path / "last.ckpt")
    assert _names(tmp_path) == ["last.ckpt", "previous.ckpt"]
    assert [_content(tmp_path / name) for name in _names(tmp_path)] == [1, 0]


def test_what_a_killed_process_left_is_removed(tmp_path):
    (tmp_path / "last.ckpt.1234.partial").write_bytes(b"half")
    AtomicCheckpointIO().save_checkpoint({"step": 1}, tmp_path / "last.ckpt")
    assert _names(tmp_path) == ["last.ckpt"]
