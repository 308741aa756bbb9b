"""What the Trainer is told of a run's batches."""

import pytest
from lightning import Trainer

from fvit.config.batch_plan import plan_batches
from fvit.training.trainer import apply_plan


def _planned(micro=16, images=64 * 11, **options):
    trainer = Trainer(accelerator="cpu", logger=False, enable_checkpointing=False, enable_progress_bar=False, **options)
    apply_plan(trainer, plan_batches(64, 1, micro), images)
    return trainer


@pytest.mark.parametrize(
    ("micro", "asked", "batches"), [(16, 0.25, 8), (16, 0.01, 4), (16, 12, 12), (16, 1.0, 1.0), (64, 0.25, 2)]
)
def test_validations_come_after_whole_steps(micro, asked, batches):
    assert _planned(micro, val_check_interval=asked).val_check_interval == batches


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"val_check_interval": 10}, "val_check_interval=10 batches end within an optimizer step, .* 4; take 8 or 12"),
        ({"val_check_interval": 3}, "; take 4$"),
        ({"val_check_interval": 48}, "val_check_interval=48 is more than the 44 batches of an epoch"),
    ],
)
def test_other_intervals_are_refused(options, message):
    with pytest.raises(ValueError, match=message):
        _planned(**options)


def test_an_interval_may_be_counted_over_epochs():
    assert _planned(val_check_interval=48, check_val_every_n_epoch=None).val_check_interval == 48
