"""Says when a run is certain to train, which is when its directory may change."""

from collections.abc import Callable
from typing import Any

from lightning import Callback, LightningModule, Trainer


class RunStart(Callback):
    """Begins a run with its first batch, of training, validation or test.

    Configuration, checkpoint, data, optimizer and the other callbacks are in order by then. In a directory with the
    record of an earlier start the run begins only when that batch has passed, which shows that memory suffices.

    Attributes:
        begin_run: `fvit.launch.run_dir.RunDir.begin`, which the run directory sets here.
    """

    def __init__(self) -> None:
        self.begin_run: Callable[..., None] = lambda after_a_batch: None

    def on_train_batch_start(self, trainer: Trainer, module: LightningModule, *args: Any) -> None:
        self.begin_run(after_a_batch=False)

    def on_train_batch_end(self, trainer: Trainer, module: LightningModule, *args: Any) -> None:
        self.begin_run(after_a_batch=True)

    def on_validation_batch_start(self, trainer: Trainer, module: LightningModule, *args: Any) -> None:
        self.begin_run(after_a_batch=False)

    def on_validation_batch_end(self, trainer: Trainer, module: LightningModule, *args: Any) -> None:
        self.begin_run(after_a_batch=True)

    def on_test_batch_start(self, trainer: Trainer, module: LightningModule, *args: Any) -> None:
        self.begin_run(after_a_batch=False)

    def on_test_batch_end(self, trainer: Trainer, module: LightningModule, *args: Any) -> None:
        self.begin_run(after_a_batch=True)

    def on_fit_end(self, trainer: Trainer, module: LightningModule) -> None:
        self.begin_run(after_a_batch=True)  # nothing was left to train
