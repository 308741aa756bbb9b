"""Profiles a few training steps with torch.profiler."""

from pathlib import Path
from typing import Any

import torch
from lightning import Callback, LightningModule, Trainer
from lightning.pytorch.profilers.pytorch import RegisterRecordFunction
from torch.profiler import profile, schedule

from fvit.launch.console import print_facts


class Trace(Callback):
    """Writes ``trace.json`` (Chrome's format) and ``operators.txt`` of a few training steps to `folder`, on rank 0.

    The table is sorted by the time spent in an operator itself. Both name the modules, and a step includes the loading
    of its batch. Lightning's PyTorchProfiler wraps the same profiler, but cannot sort by an operator's own time, and
    writes no trace of a run that is shorter than its schedule.

    Args:
        folder: the run directory.
        skip: batches before the recording, the last of which warms up the profiler; fewer if an epoch has fewer.
        steps: batches that are recorded.
        rows: operators in the table.
    """

    def __init__(self, folder: str | Path, skip: int = 5, steps: int = 3, rows: int = 60) -> None:
        self.folder = Path(folder)
        self.skip, self.steps, self.rows = skip, steps, rows
        self._profile: profile | None = None

    def on_train_start(self, trainer: Trainer, module: LightningModule) -> None:
        if not trainer.is_global_zero:
            return
        skip = min(self.skip, int(trainer.num_training_batches) - self.steps)
        # An epoch without batches to skip is recorded whole.
        plan = schedule(wait=skip - 1, warmup=1, active=self.steps, repeat=1) if skip > 0 else None
        self._names = RegisterRecordFunction(module)
        self._names.__enter__()
        self._profile = profile(schedule=plan, on_trace_ready=self._write, acc_events=True)
        self._profile.start()

    def on_train_batch_end(self, trainer: Trainer, module: LightningModule, *args: Any) -> None:
        if self._profile is not None:
            self._profile.step()

    def on_validation_start(self, trainer: Trainer, module: LightningModule) -> None:
        self._stop()  # the recording is of training only

    def on_train_end(self, trainer: Trainer, module: LightningModule) -> None:
        self._stop()  # writes what a shorter run has recorded

    def on_exception(self, trainer: Trainer, module: LightningModule, exception: BaseException) -> None:
        self._stop()

    def _stop(self) -> None:
        if self._profile is not None:
            running, self._profile = self._profile, None
            running.stop()
            self._names.__exit__(None, None, None)

    def _write(self, recorded: profile) -> None:
        trace, table = self.folder / "trace.json", self.folder / "operators.txt"
        recorded.export_chrome_trace(str(trace))
        key = "self_cuda_time_total" if torch.cuda.is_available() else "self_cpu_time_total"
        content = recorded.key_averages().table(sort_by=key, row_limit=self.rows, max_name_column_width=100)
        table.write_text(content + "\n", encoding="utf-8")
        facts = [
            ("trace", f"{trace}, opens at https://ui.perfetto.dev or chrome://tracing"),
            ("operators", str(table)),
        ]
        print_facts("Profile of a few training steps", facts)
