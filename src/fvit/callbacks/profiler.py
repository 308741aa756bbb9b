"""What a few training steps spend their time on: a trace to look at, and a table of operators."""

from pathlib import Path
from typing import Any

import torch
from lightning import Callback, LightningModule, Trainer
from lightning.pytorch.profilers.pytorch import RegisterRecordFunction
from torch.profiler import profile, schedule

from fvit.launch.console import print_facts


class Trace(Callback):
    """Records training steps with torch's profiler: ``trace.json`` (Chrome's format) and ``operators.txt`` in `folder`.

    The table is sorted by the time that an operator itself took. Modules stand in both under their names; a step goes
    from the end of the step before it, so that the loading of its batch is seen too. Rank 0 alone records.

    Lightning's PyTorchProfiler wraps the same profiler, but cannot sort by an operator's own time, and writes no trace
    where a run is shorter than its schedule.

    Args:
        folder: of the run.
        skip: batches before the recording, one of which warms the profiler up; fewer where an epoch has fewer.
        steps: batches that are recorded.
        rows: operators in the table.
    """

    def __init__(self, folder: str | Path, skip: int = 5, steps: int = 3, rows: int = 60) -> None:
        self.folder = Path(folder)
        self.skip, self.steps, self.rows = skip, steps, rows
        self._profile: profile | None = None

    def on_train_start(self, trainer: Trainer, module: LightningModule) -> None:
        """Begin to count."""
        if not trainer.is_global_zero:
            return
        skip = min(self.skip, int(trainer.num_training_batches) - self.steps)
        # All that there is, of an epoch that leaves nothing to skip.
        plan = schedule(wait=skip - 1, warmup=1, active=self.steps, repeat=1) if skip > 0 else None
        self._names = RegisterRecordFunction(module)
        self._names.__enter__()
        self._profile = profile(schedule=plan, on_trace_ready=self._write, acc_events=True)
        self._profile.start()

    def on_train_batch_end(self, trainer: Trainer, module: LightningModule, *args: Any) -> None:
        """Count."""
        if self._profile is not None:
            self._profile.step()

    def on_validation_start(self, trainer: Trainer, module: LightningModule) -> None:
        """A recording holds training alone."""
        self._stop()

    def on_train_end(self, trainer: Trainer, module: LightningModule) -> None:
        """Write what there is of a run that was shorter."""
        self._stop()

    def on_exception(self, trainer: Trainer, module: LightningModule, exception: BaseException) -> None:
        """The profiler must not outlive the run."""
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
            ("trace", f"{trace}; open it at https://ui.perfetto.dev or chrome://tracing"),
            ("operators", str(table)),
        ]
        print_facts("Profile of some training steps", facts)
