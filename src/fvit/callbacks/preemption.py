"""Ends training on a signal: all ranks at the same step, with one checkpoint."""

import signal
import time
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import torch
import torch.distributed as dist
from lightning import Callback, LightningModule, Trainer
from lightning.pytorch.trainer.connectors.signal_connector import _SignalConnector
from lightning.pytorch.trainer.states import TrainerFn
from lightning.pytorch.utilities.exceptions import SIGTERMException

from fvit.callbacks.last_checkpoint import LastCheckpoint
from fvit.config.overrides import argument
from fvit.launch import signals
from fvit.launch.signals import Stopped

# Seconds between two collectives in which ranks agree whether one of them has received a signal.
_PERIOD = 1.0


class Preemption(Callback):
    """On a signal, saves a checkpoint and ends training after the step or validation batch that all ranks agree on.

    A run that resumes from a checkpoint within a validation starts with the whole of that validation (`ResumeState`).

    Attributes:
        stopped: what to raise after a signal ended training; None otherwise.
    """

    def __init__(self) -> None:
        self.stopped: Stopped | None = None
        self._deferring = ExitStack()
        self._where = ""
        self._signum = 0
        self._reset()

    def setup(self, trainer: Trainer, module: LightningModule, stage: str) -> None:
        trainer._signal_connector = _NoHandlers(trainer)
        # In DDP Lightning asks the same before each batch, which makes a GPU wait.
        trainer.fit_loop.epoch_loop._broadcast_sigterm_tensor = lambda: None
        if stage == TrainerFn.FITTING:  # a signal in training is noted instead of raised at any line
            self._deferring.enter_context(signals.deferring())

    def teardown(self, trainer: Trainer, module: LightningModule, stage: str) -> None:
        self._deferring.close()

    def on_train_start(self, trainer: Trainer, module: LightningModule) -> None:
        self._reset()
        # An interrupted validation is repeated. Lightning would count its first batch twice in the total, and take the
        # next checkpoint for one of an interrupted validation.
        trainer.fit_loop.epoch_loop.val_loop.batch_progress.total.reset_on_restart()

    def on_train_batch_end(self, trainer: Trainer, module: LightningModule, *args: Any) -> None:
        if not self._is_due(trainer):
            return
        loop = trainer.fit_loop.epoch_loop
        # A validation or the end of an epoch that comes next has hooks of its own.
        if (
            not loop._should_accumulate()
            and not loop._is_training_done
            and not loop._should_check_val_fx(trainer.fit_loop._data_fetcher)
        ):
            self._end_if_agreed(trainer, f"at step {trainer.global_step}")

    def on_validation_start(self, trainer: Trainer, module: LightningModule) -> None:
        self._reset()
        if trainer.state.fn == TrainerFn.FITTING:
            # Batches that every rank has: some ranks may hold one image more.
            self._batches = _reduce(trainer, [sum(trainer.num_val_batches)], dist.ReduceOp.MIN)[0]

    def on_validation_batch_end(
        self, trainer: Trainer, module: LightningModule, outputs: Any, batch: Any, batch_idx: int, *args: Any
    ) -> None:
        # After the last batch nothing is left to interrupt.
        if trainer.state.fn == TrainerFn.FITTING and batch_idx + 1 < self._batches and self._is_due(trainer):
            self._end_if_agreed(trainer, f"in the validation after step {trainer.global_step}")

    def on_validation_end(self, trainer: Trainer, module: LightningModule) -> None:
        self._reset()  # training batches take another time

    def on_exception(self, trainer: Trainer, module: LightningModule, exception: BaseException) -> None:
        if isinstance(exception, SIGTERMException):  # the end that was agreed on
            self.stopped = Stopped(self._signum, self._describe(trainer, self._save(trainer)))
            signals.ignore_further()
        self._deferring.close()

    def _is_due(self, trainer: Trainer) -> bool:
        if trainer.world_size == 1:
            return signals.received() is not None
        self._since += 1
        return self._since >= self._every

    def _end_if_agreed(self, trainer: Trainer, where: str) -> None:
        self._signum = self._agree(trainer)
        if self._signum:
            self._where = where
            trainer._signal_connector.received_sigterm = True  # Lightning raises when it is done with this batch

    def _agree(self, trainer: Trainer) -> int:
        """The signal that any rank has received, or 0; ranks also agree after how many batches to ask again."""
        if trainer.world_size == 1:
            return signals.received() or 0
        now = time.monotonic()
        every = int(self._since * _PERIOD / max(now - self._asked, 1e-6))
        # At most twice as many as before: the first batches say little. The slowest rank decides.
        every = max(1, min(every, 2 * self._every))
        signum, slowest = _reduce(trainer, [signals.received() or 0, -every], dist.ReduceOp.MAX)
        self._every, self._since, self._asked = -slowest, 0, now
        return signum

    def _reset(self) -> None:
        self._every, self._since, self._asked = 1, 0, time.monotonic()

    def _save(self, trainer: Trainer) -> Path | None:
        if not trainer.checkpoint_callbacks:
            return None
        kept = [callback.path for callback in trainer.checkpoint_callbacks if isinstance(callback, LastCheckpoint)]
        path = kept[0] if kept else Path(trainer.default_root_dir) / "checkpoints" / "last.ckpt"
        trainer.save_checkpoint(path)
        return path

    def _describe(self, trainer: Trainer, path: Path | None) -> str:
        what = f"stopped by {signal.Signals(self._signum).name} {self._where} (epoch {trainer.current_epoch + 1})"
        if path is None:
            return f"{what}; no checkpoint was saved, because no callback saves any"
        return f"{what}; saved {path}, resume with {argument('ckpt_path', trainer.default_root_dir)}"


class _NoHandlers(_SignalConnector):
    """Lightning's, without its handlers: they save nothing, and hang where only one rank receives a signal."""

    def register_signal_handlers(self) -> None:
        pass

    def teardown(self) -> None:
        pass


def _reduce(trainer: Trainer, numbers: list[int], operation: dist.ReduceOp) -> list[int]:
    if trainer.world_size == 1:
        return numbers
    tensor = torch.tensor(numbers, device=trainer.strategy.root_device)
    dist.all_reduce(tensor, operation)
    return tensor.tolist()
