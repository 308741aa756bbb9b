"""Progress of a run: one line per epoch and, on a terminal, below them a bar for the whole run."""

from datetime import timedelta
from typing import Any

from lightning import LightningModule, Trainer
from lightning.pytorch.callbacks import ProgressBar
from lightning.pytorch.trainer.states import TrainerFn
from rich.progress import BarColumn, Progress, TaskProgressColumn, TextColumn, TimeElapsedColumn, TimeRemainingColumn

from fvit.callbacks.logged_steps import ends_logged_step
from fvit.callbacks.metrics import Metrics
from fvit.launch.console import console
from fvit.launch.quiet import is_quiet

# Columns of a terminal that has room for the accuracy next to the bar, and for all.
_MEDIUM, _WIDE = 100, 120


class RunProgress(ProgressBar):
    """Shows the epoch, loss, accuracy, images/s, the ETA of the whole run and, where it is long, the data wait."""

    def __init__(self) -> None:
        super().__init__()
        self._enabled = True
        self._progress: Progress | None = None

    def enable(self) -> None:
        self._enabled = True

    def disable(self) -> None:
        """Lightning calls this on all ranks but the first."""
        self._enabled = False

    def on_train_start(self, trainer: Trainer, module: LightningModule) -> None:
        if not self._enabled or is_quiet() or not console.is_interactive:
            return
        wide = console.width >= _WIDE
        self._progress = Progress(
            TextColumn("{task.description}"),
            BarColumn(bar_width=None),
            TaskProgressColumn(),
            TextColumn("{task.fields[figures]}"),
            *([TextColumn("elapsed"), TimeElapsedColumn()] if wide else []),
            TextColumn("ETA"),
            TimeRemainingColumn(),
            console=console,
            expand=True,
        )
        total, done = trainer.estimated_stepping_batches, trainer.global_step
        self._task = self._progress.add_task(_epoch(trainer), total=total, completed=done, figures="")
        self._progress.start()

    def on_train_batch_end(
        self, trainer: Trainer, module: LightningModule, outputs: Any, batch: Any, batch_idx: int
    ) -> None:
        if self._progress is not None:
            # Reading the loss after each batch would make a GPU wait.
            is_read = ends_logged_step(trainer, batch_idx)
            figures = {"figures": self._figures(trainer, console.width)} if is_read else {}
            self._progress.update(self._task, description=_epoch(trainer), completed=trainer.global_step, **figures)

    def on_validation_end(self, trainer: Trainer, module: LightningModule) -> None:
        if not self._enabled or is_quiet() or trainer.state.fn != TrainerFn.FITTING:
            return
        metrics = _metrics(trainer)
        left = metrics and not self._progress and metrics.seconds_left(trainer)
        eta = f"  ETA {timedelta(seconds=round(left))}" if left else ""
        console.print(f"{_epoch(trainer)}  {self._figures(trainer)}{eta}")

    def on_train_end(self, trainer: Trainer, module: LightningModule) -> None:
        self._close()

    def on_exception(self, trainer: Trainer, module: LightningModule, exception: BaseException) -> None:
        self._close()  # so that the message starts on a new line

    def _close(self) -> None:
        if self._progress is not None:
            self._progress.stop()
            self._progress = None

    @staticmethod
    def _figures(trainer: Trainer, width: int = _WIDE) -> str:
        """Loss, accuracy, speed and a long data wait, as far as a bar beside them leaves room in `width` columns."""
        logged, metrics = trainer.callback_metrics, _metrics(trainer)
        parts = []
        if "train/loss" in logged:
            parts.append(f"loss {float(logged['train/loss']):.3f}")
        if "val/acc1" in logged and width >= _MEDIUM:
            parts.append(f"val acc1 {100 * float(logged['val/acc1']):.2f} %")
        if metrics is not None and metrics.images_per_s:
            parts.append(f"{metrics.images_per_s:,.0f} images/s")
            if metrics.recent_data_wait > metrics.data_wait_limit and width >= _WIDE:
                parts.append(f"data wait {100 * metrics.recent_data_wait:.0f} %")
        return "  ".join(parts)


def _epoch(trainer: Trainer) -> str:
    return f"epoch {trainer.current_epoch + 1}/{trainer.max_epochs or '?'}"


def _metrics(trainer: Trainer) -> Metrics | None:
    return next((callback for callback in trainer.callbacks if isinstance(callback, Metrics)), None)
