"""Writes checkpoints atomically, and keeps the last one's predecessor."""

from pathlib import Path
from typing import Any

import torch
from lightning.fabric.plugins import TorchCheckpointIO

from fvit.config.atomic import PARTIAL, replacing


class AtomicCheckpointIO(TorchCheckpointIO):
    """Replaces a checkpoint once its successor is on disk; the old last.ckpt becomes previous.ckpt.

    Lightning's own builds the whole file in memory, does not wait for the disk, and keeps no predecessor.
    """

    def save_checkpoint(self, checkpoint: dict[str, Any], path: str | Path, storage_options: Any = None) -> None:
        path = Path(path)
        path.parent.mkdir(parents=True, exist_ok=True)
        for leftover in path.parent.glob(f"{path.name}.*{PARTIAL}"):  # of a process that was killed while writing
            leftover.unlink(missing_ok=True)
        keep = path.with_name("previous.ckpt") if path.name == "last.ckpt" else None
        with replacing(path, "wb", keep=keep) as file:
            torch.save(checkpoint, file)
