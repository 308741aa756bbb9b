"""A run that is cut off and started again ends as if nothing had happened."""

import pytest

from tests.run.stopped import NOISY, curve, differences, last
from tests.training.fitting import Probe, fit

RUN = (
    *NOISY,
    "data=digits",
    "trainer.max_epochs=4",
    "++trainer.limit_train_batches=6",
    "+trainer.limit_val_batches=2",
)


class Cut(Exception):
    """Stands for SIGKILL."""


class CutAt(Probe):
    """Ends the run the n-th time that a hook is called."""

    def __init__(self, hook, count):
        super().__init__()
        self.left = count
        setattr(self, hook, self._count)

    def _count(self, *args):
        self.left -= 1
        if self.left == 0:
            raise Cut


slow = pytest.mark.slow  # several seconds each; the others cover most of it

EVERY = "callbacks.last.every_n_train_steps"


@pytest.mark.parametrize(
    "overrides",
    [
        pytest.param([f"{EVERY}=3"], id="before validation"),
        pytest.param([f"{EVERY}=2", "micro_batch_size=32", "++trainer.limit_train_batches=12"], id="accumulating"),
        pytest.param([f"{EVERY}=2", "+trainer.val_check_interval=3"], id="validation within"),
        pytest.param([f"{EVERY}=1"], id="each step", marks=slow),
        pytest.param([], id="each epoch", marks=slow),
        pytest.param([f"{EVERY}=2", "+trainer.check_val_every_n_epoch=2"], id="validation at times", marks=slow),
    ],
)
def test_cut_off_anywhere_it_ends_with_the_same_bits(compose_config, tmp_path, overrides):
    def run(name, probe=None):
        going_on = [f"output_dir={tmp_path / name}", "ckpt_path=last"]
        return fit(compose_config(*dict.fromkeys([*RUN, *overrides]), *going_on), probe)

    run("whole")
    cuts = 0
    for hook, count in (
        ("on_train_batch_start", 3),
        ("on_validation_batch_end", 1),
        ("on_validation_batch_end", 2),
        ("on_train_batch_end", 2),
        ("on_validation_start", 1),
        ("on_train_epoch_end", 1),
        ("on_train_batch_start", 8),
        ("on_train_end", 1),
    ):
        try:
            run("cut", CutAt(hook, count))
        except Cut:
            cuts += 1
    assert cuts >= 6
    probe = run("cut")
    assert probe.losses == []  # nothing was left but the end
    assert differences(last(tmp_path / "whole"), last(tmp_path / "cut")) == []
    assert curve(tmp_path / "cut") == curve(tmp_path / "whole")
