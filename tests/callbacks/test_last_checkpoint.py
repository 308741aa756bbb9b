import time
from types import SimpleNamespace

import pytest

from fvit.callbacks.last_checkpoint import LastCheckpoint
from tests.training.fitting import FAKE, Probe, fit


class Saved(Probe):
    """Records after which steps a checkpoint was written, and whether its epoch had ended."""

    def __init__(self):
        super().__init__()
        self.steps = []

    def on_save_checkpoint(self, trainer, module, checkpoint):
        epochs = checkpoint["loops"]["fit_loop"]["epoch_progress"]["current"]
        self.steps.append((trainer.global_step, epochs["processed"] == epochs["ready"]))


@pytest.mark.parametrize(
    ("overrides", "within"),
    [
        pytest.param([], [], marks=pytest.mark.slow),
        (["callbacks.last.every_n_train_steps=3"], [3, 6]),
        pytest.param(["callbacks.last.every_n_train_steps=2"], [2, 4, 6, 8], marks=pytest.mark.slow),
        pytest.param(["callbacks.last.every_n_minutes=60"], [], marks=pytest.mark.slow),
        pytest.param(
            ["callbacks.last.every_n_train_steps=2", "+trainer.check_val_every_n_epoch=2"],
            [2, 6, 8],
            marks=pytest.mark.slow,
        ),
        (["callbacks.last.every_n_train_steps=3", "micro_batch_size=4"], [3, 6]),
        (["callbacks.last.every_n_minutes=1e-9"], [1, 2, 3, 4, 5, 6, 7, 8]),
        (["+trainer.val_check_interval=2"], [2, 6]),
    ],
)
def test_it_is_written_after_each_epoch_and_on_request_more_often(compose_config, overrides, within):
    two = ("logger=none", "trainer.max_epochs=2", "~callbacks.best", "+trainer.limit_val_batches=1")
    probe = fit(compose_config(*FAKE, *two, *overrides), Saved())
    assert sorted(probe.steps) == sorted([(4, True), (8, True), *((step, False) for step in within)])


def test_minutes_are_counted_since_the_last_checkpoint(monkeypatch):
    now = [0.0]
    monkeypatch.setattr(time, "monotonic", lambda: now[0])
    callback = LastCheckpoint("folder", every_n_minutes=2)
    trainer = SimpleNamespace(global_step=0, strategy=SimpleNamespace(broadcast=lambda due: due))
    callback.on_train_start(trainer, None)
    for seconds, due in ((119, False), (120, True)):
        now[0] = seconds
        assert callback._is_due(trainer) is due


@pytest.mark.parametrize("option", ["every_n_train_steps", "every_n_minutes"])
def test_interval_must_be_positive(option):
    with pytest.raises(ValueError, match=f"{option}=0 must be positive"):
        LastCheckpoint("folder", **{option: 0})
