"""The progress of a run on the terminal: one bar for the whole run, or a line an epoch where there is no terminal."""

from datetime import timedelta
from typing import Any

from lightning import LightningModule, Trainer
from lightning.pytorch.callbacks import ProgressBar
from lightning.pytorch.trainer.states import TrainerFn
from rich.progress import BarColumn, Progress, TaskProgressColumn, TextColumn, TimeElapsedColumn, TimeRemainingColumn

from fvit.callbacks.data_wait import DataWait
from fvit.callbacks.throughput import Throughput
from fvit.launch.console import console
from fvit.launch.quiet import is_quiet

# Columns of a terminal that has room for a bar beside the figures.
_WIDE = 120


class RunProgress(ProgressBar):
    """Epoch, loss, accuracies, images/s, the time left of the whole run, and how long it waits if that is long."""

    def __init__(self) -> None:
        super().__init__()
        self._enabled = True
        self._progress: Progress | None = None

    def enable(self) -> None:
        """Show the bar."""
        self._enabled = True

    def disable(self) -> None:
        """Show nothing, as on all ranks but the first."""
        self._enabled = False

    def on_train_start(self, trainer: Trainer, module: LightningModule) -> None:
        """Open the bar."""
        if not self._enabled or is_quiet() or not console.is_interactive:
            return
        wide = console.width >= _WIDE
        self._progress = Progress(
            TextColumn("{task.description}"),
            *([BarColumn(bar_width=None)] if wide else []),
            TaskProgressColumn(),
            TextColumn("{task.fields[figures]}"),
            *([TimeElapsedColumn(), TextColumn("gone,")] if wide else []),
            TimeRemainingColumn(),
            TextColumn("left"),
            console=console,
        )
        total = trainer.estimated_stepping_batches * trainer.accumulate_grad_batches
        self._task = self._progress.add_task("epoch 1", total=total, completed=self._done(trainer), figures="")
        self._progress.start()

    def on_train_batch_end(self, trainer: Trainer, module: LightningModule, *args: Any) -> None:
        """Advance."""
        if self._progress is not None:
            epoch = f"epoch {trainer.current_epoch + 1}/{trainer.max_epochs or '?'}"
            done = self._done(trainer) + 1
            self._progress.update(self._task, description=epoch, completed=done, figures=self._figures(trainer))

    def on_validation_end(self, trainer: Trainer, module: LightningModule) -> None:
        """Show the new accuracy; without a terminal, as a line."""
        if self._progress is not None:
            self._progress.update(self._task, figures=self._figures(trainer))
        elif self._enabled and not is_quiet() and trainer.state.fn == TrainerFn.FITTING:
            epoch = f"epoch {trainer.current_epoch + 1}/{trainer.max_epochs or '?'}"
            console.print(f"{epoch}  {self._figures(trainer)}{self._left(trainer)}")

    def on_train_end(self, trainer: Trainer, module: LightningModule) -> None:
        """Close the bar."""
        self._close()

    def on_exception(self, trainer: Trainer, module: LightningModule, exception: BaseException) -> None:
        """Close the bar, so that the message stands on a line of its own."""
        self._close()

    def _close(self) -> None:
        if self._progress is not None:
            self._progress.stop()
            self._progress = None

    @staticmethod
    def _done(trainer: Trainer) -> int:
        return trainer.fit_loop.total_batch_idx

    @staticmethod
    def _figures(trainer: Trainer) -> str:
        metrics = trainer.callback_metrics
        parts = []
        if "train/loss" in metrics:
            parts.append(f"loss {float(metrics['train/loss']):.3f}")
        if "val/acc1" in metrics:
            parts.append(f"val acc1 {100 * float(metrics['val/acc1']):.2f} %")
        for callback in trainer.callbacks:
            if isinstance(callback, Throughput) and callback.images_per_s:
                parts.append(f"{callback.images_per_s:,.0f} images/s")
            # A warning tells it as well, where there is no room.
            if isinstance(callback, DataWait) and callback.recent > callback.limit and console.width >= _WIDE:
                parts.append(f"{100 * callback.recent:.0f} % waiting for images")
        return "  ".join(parts)

    @staticmethod
    def _left(trainer: Trainer) -> str:
        left = next((c.seconds_left(trainer) for c in trainer.callbacks if isinstance(c, Throughput)), None)
        return f"  {timedelta(seconds=round(left))} left" if left else ""
