"""Checkpoints that are there whole or not at all, and the last one's predecessor."""

import os
from pathlib import Path
from typing import Any

import torch
from lightning.fabric.plugins import TorchCheckpointIO

_PARTIAL = ".partial"
_KEPT = {"last.ckpt": "previous.ckpt"}


class AtomicCheckpointIO(TorchCheckpointIO):
    """Writes to another name, has the disk confirm it, and renames; what was last.ckpt is kept as previous.ckpt.

    Lightning's own also renames, but builds the whole file in memory, does not wait for the disk, and keeps nothing.
    """

    def save_checkpoint(self, checkpoint: dict[str, Any], path: str | Path, storage_options: Any = None) -> None:
        """Write `checkpoint` to a local `path`."""
        path = Path(path)
        path.parent.mkdir(parents=True, exist_ok=True)
        for left_over in path.parent.glob(f"{path.name}.*{_PARTIAL}"):  # by a process that was killed while it wrote
            left_over.unlink(missing_ok=True)
        partial = path.with_name(f"{path.name}.{os.getpid()}{_PARTIAL}")
        try:
            with partial.open("wb") as file:
                torch.save(checkpoint, file)
                file.flush()
                os.fsync(file.fileno())
            if path.name in _KEPT and path.exists():
                path.replace(path.with_name(_KEPT[path.name]))
            partial.replace(path)
        except BaseException:
            partial.unlink(missing_ok=True)
            raise
        _sync_folder(path.parent)


def _sync_folder(folder: Path) -> None:
    descriptor = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
