"""Which batches' figures reach the loggers."""

from lightning import Trainer


def ends_logged_step(trainer: Trainer, batch_idx: int) -> bool:
    """Whether this batch completes an optimizer step that Lightning logs; asked in ``on_train_batch_end``."""
    ends = (batch_idx + 1) % trainer.accumulate_grad_batches == 0 or trainer.is_last_batch
    return ends and trainer.global_step % trainer.log_every_n_steps == 0
