"""The steps in which a GPU may be waited for, because loggers read their numbers from it anyway."""

from lightning import Trainer


def ends_logged_step(trainer: Trainer, batch_idx: int) -> bool:
    """Whether the batch that has just ended completes an optimizer step that loggers receive."""
    step_ends = (batch_idx + 1) % trainer.accumulate_grad_batches == 0 or trainer.is_last_batch
    return step_ends and trainer.global_step % trainer.log_every_n_steps == 0
