"""How fast a run is, how far it has come, and how long it still takes."""

import time
from typing import Any

from lightning import Callback, LightningModule, Trainer
from lightning.pytorch.trainer.states import TrainerFn

from fvit.callbacks.logged import ends_logged_step

_SEEN = "progress/images_seen"


class Throughput(Callback):
    """Logs ``throughput/images_per_s``, ``progress/images_seen`` and ``progress/seconds_left``, over all devices.

    The loggers get them every few steps, the speed as the mean since they got it last; the run's results hold the mean
    over the run. Only training counts: the clock stands still in validation, and the first steps of a run, which warm
    up, are left out. The time left holds everything, validation and checkpoints too. Nothing of this is kept in a
    checkpoint: where a run goes on, the images seen follow from its step.

    Args:
        images_per_step: images of one optimizer step over all devices.
        accumulate: batches of one optimizer step.
        warmup: batches left out.
    """

    def __init__(self, images_per_step: int, accumulate: int = 1, warmup: int = 2) -> None:
        self.images_per_step = images_per_step
        self.images_per_batch = images_per_step // accumulate
        self.warmup = warmup
        self.batches = 0
        self.seconds = 0.0
        self._told = (0, 0.0)  # batches and seconds when they were logged last

    @property
    def images_per_s(self) -> float:
        """Mean over the run so far; 0 before anything was measured."""
        return self._speed(self.batches, self.seconds)

    def seconds_left(self, trainer: Trainer) -> float | None:
        """At this process's pace, validation included; None before it warmed up or where a run's length is unknown."""
        updates = trainer.estimated_stepping_batches
        if not self.batches or updates == float("inf"):
            return None
        per_step = (self._last - self._warm) / self.batches * self.images_per_step / self.images_per_batch
        return max(0.0, (updates - trainer.global_step) * per_step)

    def on_train_epoch_start(self, trainer: Trainer, module: LightningModule) -> None:
        """Start the clock."""
        self._last = time.perf_counter()
        if not self.batches:
            self._warm = self._last

    def on_train_batch_end(
        self, trainer: Trainer, module: LightningModule, outputs: Any, batch: Any, batch_idx: int
    ) -> None:
        """Count a batch, with the time that its loading took; log now and then."""
        now = time.perf_counter()
        if self.warmup > 0:
            self.warmup -= 1
            self._warm = now
        else:
            self.batches += 1
            self.seconds += now - self._last
        self._last = now
        if ends_logged_step(trainer, batch_idx):
            module.log_dict({**self._progress(trainer), **self._recent_speed()})

    def on_validation_epoch_end(self, trainer: Trainer, module: LightningModule) -> None:
        """Log beside the accuracies what they can be drawn over."""
        if trainer.state.fn == TrainerFn.FITTING:
            module.log(_SEEN, float(trainer.global_step * self.images_per_step), sync_dist=True)

    def on_validation_end(self, trainer: Trainer, module: LightningModule) -> None:
        """Leave out the time since the last training batch."""
        self._last = time.perf_counter()

    def on_train_epoch_end(self, trainer: Trainer, module: LightningModule) -> None:
        """Note where the run stands, and its mean, for its results."""
        for name, value in self._progress(trainer).items():
            module.log(name, value, logger=None if name == _SEEN else False, sync_dist=True)
        if self.seconds:
            module.log("throughput/images_per_s", self.images_per_s, logger=False, sync_dist=True)

    def _progress(self, trainer: Trainer) -> dict[str, float]:
        left = self.seconds_left(trainer)
        seen = {_SEEN: float(trainer.global_step * self.images_per_step)}
        return seen if left is None else {**seen, "progress/seconds_left": left}

    def _recent_speed(self) -> dict[str, float]:
        (batches, seconds), self._told = self._told, (self.batches, self.seconds)
        if self.batches == batches:
            return {}
        return {"throughput/images_per_s": self._speed(self.batches - batches, self.seconds - seconds)}

    def _speed(self, batches: int, seconds: float) -> float:
        return batches * self.images_per_batch / seconds if seconds else 0.0
