"""Lets the frozen part of a model learn after some epochs."""

from lightning import Callback, LightningModule, Trainer
from lightning.pytorch.strategies import DDPStrategy
from lightning.pytorch.trainer.states import TrainerFn

from fvit.config.wording import count


class Unfreeze(Callback):
    """Releases what ``model.freeze`` has frozen.

    The schedule goes on, and the optimizer meets the released weights without any state. It follows from the number of
    the epoch alone, so that a run that resumes does the same.

    Args:
        epoch: the first one in which the whole model learns, counted from 0.

    Raises:
        ValueError: there is nothing to release, or the run ends before.
    """

    def __init__(self, epoch: int) -> None:
        if epoch < 1:
            raise ValueError(f"callbacks.unfreeze.epoch={epoch} freezes nothing: use 1 or more, or no model.freeze")
        self.epoch = epoch

    def setup(self, trainer: Trainer, module: LightningModule, stage: str) -> None:
        if stage != TrainerFn.FITTING:  # a test follows training, which has released it
            return
        if not module.frozen.active:
            raise ValueError(
                "callbacks.unfreeze has nothing to release; set model.freeze=backbone, or model.freeze=0-7"
            )
        if not trainer.fast_dev_run and 0 < (trainer.max_epochs or -1) <= self.epoch:
            raise ValueError(
                f"callbacks.unfreeze.epoch={self.epoch} comes after the {count(trainer.max_epochs, 'epoch')} of this "
                "run; use less, or leave the callback out"
            )

    def on_train_start(self, trainer: Trainer, module: LightningModule) -> None:
        self._release(trainer, module)  # a run that resumes within an epoch does not start one

    def on_train_epoch_start(self, trainer: Trainer, module: LightningModule) -> None:
        self._release(trainer, module)

    def _release(self, trainer: Trainer, module: LightningModule) -> None:
        if not module.frozen.active or trainer.current_epoch < self.epoch:
            return
        module.frozen.release()
        if isinstance(trainer.strategy, DDPStrategy):
            # DDP averages the gradients of those weights alone that required them when it was built.
            trainer.strategy.model = module
            trainer.strategy.configure_ddp()
