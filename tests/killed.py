"""A callback for runs in processes of their own, which are killed at a moment that the environment names."""

import os
import signal
import time
from types import SimpleNamespace

import torch
from lightning import Callback

from fvit.training import checkpoint

VARIABLE = "KILLED_AT"


class KillAt(Callback):
    """Kills the process group, as ``HOOK:COUNT:RANK`` says: the COUNT-th time that HOOK is called on that rank.

    The hook may be ``writing`` too, which is in the middle of a checkpoint's file. ``HOOK:COUNT:RANK:launcher`` kills
    the process alone that has started the ranks; that rank then gets no further.
    """

    def __init__(self):
        hook, count, rank, *self.whom = os.environ.get(VARIABLE, ":0:0").split(":")
        self.left, self.here = int(count), rank == os.environ.get("LOCAL_RANK", "0")
        if hook == "writing":
            # In that file alone: ranks that gather tensors save them as well.
            checkpoint.torch = SimpleNamespace(save=self._write, load=torch.load)
        elif hook:
            setattr(self, hook, self._count)

    def _count(self, *args):
        self.left -= 1
        if self.left == 0 and self.here and self.whom:
            os.kill(os.getppid(), signal.SIGKILL)
            time.sleep(600)
        elif self.left == 0 and self.here:
            os.killpg(0, signal.SIGKILL)

    def _write(self, content, file):
        torch.save(content, file)
        if self.left == 1:
            file.truncate(file.tell() // 2)
            file.flush()
        self._count()
