"""Speed, progress, memory and gradient norm of a training run."""

import logging
import time
from typing import Any

import torch
from lightning import Callback, LightningModule, Trainer
from lightning.pytorch.trainer.states import TrainerFn
from torch.nn.utils import get_total_norm
from torch.optim import Optimizer

from fvit.callbacks.data_wait import HostWait, Waiting, waiting_for
from fvit.callbacks.logged_steps import ends_logged_step
from fvit.config.cores import usable_cores
from fvit.cost.memory import peak, reset_peak
from fvit.cost.utilisation import matmul_rate, mfu

log = logging.getLogger(__name__)

_SEEN, _HOURS, _LEFT = "progress/images_seen", "progress/device_hours", "progress/seconds_left"
_SPEED, _WAIT, _MEMORY = "throughput/images_per_s", "throughput/data_wait", "memory/peak_gib"
_MFU = "throughput/mfu"
_AUTOCAST = {"bf16-mixed": torch.bfloat16, "16-mixed": torch.float16}


class Metrics(Callback):
    """Logs what a run tells about itself, over all devices, every ``trainer.log_every_n_steps`` steps.

    * ``throughput/images_per_s``: training images per second. Data wait and checkpoints count, validation does not.
    * ``throughput/data_wait``: the share of a step that passes before its batch is on the device, on the rank that
      waits longest, because the others wait for it; on CUDA the share in which the GPU is idle by then. Steps after a
      checkpoint are left out.
    * ``throughput/mfu``, on CUDA: the operations of the model, three forward passes' worth per step (without those of a
      teacher), over what matrix products in the run's precision reach on rank 0's GPU, measured at the start.
    * ``progress/images_seen``, ``progress/seconds_left`` (with validation and checkpoints) and
      ``progress/device_hours``: hours since training began times devices, continued from a checkpoint.
    * ``memory/peak_gib`` of the largest process since training began; on CUDA ``gpu/utilization``, the percentage that
      the driver reports for its last interval (at most a second) on rank 0's device.
    * ``grad_norm``: the 2-norm of the gradient over all parameters before clipping. Lightning's clipping computes it
      as well but does not return it; this second pass takes place in logged steps only.

    Speed and data wait are means since the previous logged step; the results of the run hold the means over the run.

    Args:
        data_wait_limit: a mean data wait above it is worth one warning, which names the loader's settings.
        warmup: batches at the start that are not measured.
        min_steps, min_seconds: measured before that warning; in a run of a minute it is worth nothing.
    """

    def __init__(
        self, data_wait_limit: float = 0.1, warmup: int = 2, min_steps: int = 20, min_seconds: float = 60.0
    ) -> None:
        self.data_wait_limit, self.warmup = data_wait_limit, warmup
        self.min_steps, self.min_seconds = min_steps, min_seconds
        self.images, self.seconds = 0, 0.0
        self.recent_data_wait = 0.0
        self._waiting: Waiting = HostWait()
        self._steps, self._waited, self._step_seconds = 0, 0.0, 0.0  # without those that follow a checkpoint
        self._rate = 0.0  # of matrix products, in operations per second
        self._logged = (0, 0.0, 0.0, 0.0)  # the totals when they were last logged
        self._hours = self._hours_before = 0.0
        self._saved = self._warned = self._has_utilization = False

    @property
    def images_per_s(self) -> float:
        """Mean over the run so far; 0 before anything was measured."""
        return self.images / self.seconds if self.seconds else 0.0

    @property
    def data_wait(self) -> float:
        """Mean over the run so far on this rank; 0 before anything was measured."""
        return self._waited / self._step_seconds if self._step_seconds else 0.0

    def seconds_left(self, trainer: Trainer) -> float | None:
        """At the pace of this process; None during warm-up, and where the length of the run is unknown."""
        updates = trainer.estimated_stepping_batches
        if not self.images or updates == float("inf"):
            return None
        per_step = (self._last - self._warm) / self.images * self._images_per_step
        return max(0.0, (updates - trainer.global_step) * per_step)

    def setup(self, trainer: Trainer, module: LightningModule, stage: str) -> None:
        images = trainer.datamodule.hparams.batch_size * trainer.world_size
        self._images_per_step = images * trainer.accumulate_grad_batches  # with data.size_schedule only this stays

    def on_train_start(self, trainer: Trainer, module: LightningModule) -> None:
        self._began = time.perf_counter()
        self._waiting = waiting_for(module.device)
        self._has_utilization = module.device.type == "cuda"
        self._macs = getattr(module, "macs", 0)  # fvit-train counts them
        if module.device.type == "cuda" and self._macs:
            self._rate = matmul_rate(module.device, _AUTOCAST.get(trainer.precision, module.dtype))
        reset_peak(module.device)

    def on_train_epoch_start(self, trainer: Trainer, module: LightningModule) -> None:
        self._begin_step()
        if not self.images:
            self._warm = self._last

    def on_train_batch_start(self, trainer: Trainer, module: LightningModule, batch: Any, batch_idx: int) -> None:
        stream = trainer.datamodule.side_stream
        self._waiting.batch_arrived(stream and stream.arrived)

    def on_before_optimizer_step(self, trainer: Trainer, module: LightningModule, optimizer: Optimizer) -> None:
        # Gradients are accumulated, averaged over ranks and unscaled by now, but not clipped.
        if (trainer.global_step + 1) % trainer.log_every_n_steps:
            return
        parameters = (parameter for group in optimizer.param_groups for parameter in group["params"])
        norm = get_total_norm([parameter.grad for parameter in parameters if parameter.grad is not None])
        # FSDP: the norm of sharded gradients is sharded too.
        module.log("grad_norm", norm.full_tensor() if hasattr(norm, "full_tensor") else norm)

    def on_train_batch_end(
        self, trainer: Trainer, module: LightningModule, outputs: Any, batch: Any, batch_idx: int
    ) -> None:
        now = time.perf_counter()
        if self.warmup > 0:
            self.warmup -= 1
            self._warm = now
        else:
            self.images += self._images_per_step // trainer.accumulate_grad_batches
            self.seconds += now - self._last
            if not self._saved:
                self._steps += 1
                self._waiting.count()
                self._step_seconds += now - self._last
        self._begin_step()
        self._count_hours(trainer)
        if ends_logged_step(trainer, batch_idx):
            self._log_step(trainer, module)

    def on_validation_epoch_end(self, trainer: Trainer, module: LightningModule) -> None:
        # What accuracies can be plotted over.
        if trainer.state.fn == TrainerFn.FITTING:
            self._count_hours(trainer)
            module.log_dict({_SEEN: self._images_seen(trainer), _HOURS: self._hours}, sync_dist=True)

    def on_validation_end(self, trainer: Trainer, module: LightningModule) -> None:
        self._begin_step()

    def on_save_checkpoint(self, trainer: Trainer, module: LightningModule, checkpoint: dict[str, Any]) -> None:
        self._saved = True

    def on_train_epoch_end(self, trainer: Trainer, module: LightningModule) -> None:
        self._count_hours(trainer)
        module.log_dict({_SEEN: self._images_seen(trainer), _HOURS: self._hours}, sync_dist=True)
        # For the results of the run only: loggers have the values of single steps.
        means = {_LEFT: self.seconds_left(trainer), _SPEED: self.images_per_s or None}
        for name, value in means.items():
            if value is not None:
                module.log(name, value, logger=False, sync_dist=True)
        self._waited = self._waiting.seconds()
        largest = {_WAIT: self.data_wait if self._step_seconds else None, _MEMORY: peak(module.device) / 2**30}
        for name, value in largest.items():
            if value is not None:
                module.log(name, value, logger=False, sync_dist=True, reduce_fx="max")

    def state_dict(self) -> dict[str, Any]:
        return {_HOURS: self._hours}

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        self._hours_before = self._hours = state_dict[_HOURS]

    def _begin_step(self) -> None:
        self._last, self._saved = time.perf_counter(), False
        self._waiting.step_ended()

    def _log_step(self, trainer: Trainer, module: LightningModule) -> None:
        self._waited = self._waiting.seconds()
        figures = {_SEEN: self._images_seen(trainer), _HOURS: self._hours, _LEFT: self.seconds_left(trainer)}
        images, seconds, waited, step_seconds = self._logged
        self._logged = (self.images, self.seconds, self._waited, self._step_seconds)
        if self.images > images:
            figures[_SPEED] = (self.images - images) / (self.seconds - seconds)
            if self._rate:
                figures[_MFU] = mfu(self._macs, figures[_SPEED], self._rate * trainer.world_size)
        if self._step_seconds > step_seconds:  # on all ranks or on none, because they count the same steps
            shares = [(self._waited - waited) / (self._step_seconds - step_seconds), self.data_wait]
            shares = trainer.strategy.reduce(torch.tensor(shares, device=module.device), reduce_op="max")
            self.recent_data_wait, mean = shares.tolist()
            figures[_WAIT] = self.recent_data_wait
            self._warn_of_data_wait(trainer, mean)
        figures["gpu/utilization"] = self._utilization(module.device)
        module.log_dict({name: value for name, value in figures.items() if value is not None})
        module.log(_MEMORY, peak(module.device) / 2**30, sync_dist=True, reduce_fx="max")

    def _images_seen(self, trainer: Trainer) -> float:
        return float(trainer.global_step * self._images_per_step)

    def _count_hours(self, trainer: Trainer) -> None:
        self._hours = self._hours_before + (time.perf_counter() - self._began) / 3600 * trainer.world_size

    def _warn_of_data_wait(self, trainer: Trainer, share: float) -> None:
        measured = self._steps >= self.min_steps and self._step_seconds >= self.min_seconds
        if share <= self.data_wait_limit or not measured or self._warned:
            return
        self._warned = True
        workers = trainer.datamodule.num_workers
        if workers:
            where = f"data.num_workers={workers} per device; {usable_cores()} cores may be used"
        else:
            where = "data.num_workers=0: images are loaded between the steps, not in parallel"
        if trainer.is_global_zero:
            log.warning(
                "training waits for data %.0f %% of the time (%s). Try another data.num_workers, data.decoder=turbo, "
                "data.pin_memory=true on a GPU, or images resized in advance (fvit-prepare out=DIR resize=256); "
                "fvit-prepare bench=DIR shows where the loader spends its time",
                100 * share,
                where,
            )

    def _utilization(self, device: torch.device) -> float | None:
        if not self._has_utilization:
            return None
        try:
            return float(torch.cuda.utilization(device))
        except Exception as error:  # the exceptions of the vendors' libraries have no other class in common
            log.warning("GPU utilization is not logged: %s", error)
            self._has_utilization = False
            return None
