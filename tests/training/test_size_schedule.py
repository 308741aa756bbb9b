"""Runs at growing resolutions, and without mixup at their end: steps, learning rates, and resuming."""

import pytest
import torch

from fvit.config.errors import ConfigError
from fvit.launch import processes
from tests.callbacks.test_resume_state import KillAt, Killed
from tests.stopped import NOISY, curve, differences, last

from .fitting import FAKE, Probe, fit

EPOCHS = (*NOISY, "data=fake", "data.num_images=144", "+trainer.limit_val_batches=2", "trainer.max_epochs=4")
RUN = (*EPOCHS, "global_batch_size=48", "micro_batch_size=6", "data.size_schedule=[8,16,32]")
"""Three steps per epoch: of one batch in the first two epochs, of two in the third, of eight in the last."""


class Sizes(Probe):
    """Records (epoch, images, size) of each batch, whether labels were mixed, and the size of validation images."""

    def __init__(self):
        super().__init__()
        self.batches, self.mixed, self.validated = [], [], set()

    def on_train_batch_start(self, trainer, module, batch, batch_idx):
        images, targets = batch
        self.batches.append((trainer.current_epoch, len(images), images.shape[-1]))
        self.mixed.append(bool(((targets > 0).sum(dim=1) > 1).any()))

    def on_validation_batch_start(self, trainer, module, batch, *args):
        self.validated.add(batch[0].shape[-1])


def test_a_step_keeps_its_images_and_its_learning_rate(compose_config):
    sized = fit(compose_config(*RUN, "data.augment.mixup.off_epochs=1"), Sizes())
    plain = fit(compose_config(*EPOCHS, "global_batch_size=48"), Sizes())
    assert sized.batches == [
        *[(epoch, 48, 8) for epoch in (0, 1) for _ in range(3)],
        *[(2, 24, 16)] * 6,
        *[(3, 6, 32)] * 24,
    ]
    assert sized.validated == {32}
    assert sized.rates == plain.rates
    assert len(sized.rates) == sized.trainer.global_step == 12
    assert sized.mixed == [True] * 12 + [False] * 24
    assert all(plain.mixed)
    assert sized.metrics["progress/images_seen"] == plain.metrics["progress/images_seen"] == 12 * 48
    assert sized.module.model.pos_embed.shape[1] == 16  # of the full size


EVERY = "callbacks.last.every_n_train_steps=1"
MOMENTS = (
    ("on_train_batch_start", 3),  # in the first epoch
    ("on_validation_batch_end", 2),
    ("on_train_epoch_end", 2),
    ("on_validation_start", 1),  # before the size changes
    ("on_train_batch_start", 1),  # after it
    ("on_train_batch_start", 6),  # within a step of two batches
    ("on_train_batch_end", 7),
    ("on_train_batch_start", 10),
    ("on_train_end", 1),
)
SHORT = [line.replace("[8,16,32]", "[16,32]").replace("max_epochs=4", "max_epochs=2") for line in RUN]
FEW = [("on_train_batch_start", 2), ("on_validation_start", 1), ("on_train_batch_start", 7)]
"""Within the first size, at the change, and within a step of the second."""


@pytest.mark.parametrize(
    ("overrides", "moments"),
    [
        pytest.param([*SHORT, EVERY], FEW, id="at the change", marks=[pytest.mark.slow, pytest.mark.exhaustive]),
        pytest.param([*RUN, EVERY], MOMENTS, id="each step", marks=pytest.mark.slow),
        pytest.param(RUN, MOMENTS, id="each epoch", marks=[pytest.mark.slow, pytest.mark.exhaustive]),
        pytest.param(
            [*(line for line in RUN if "micro" not in line), EVERY],
            MOMENTS,
            id="whole batches",
            marks=[pytest.mark.slow, pytest.mark.exhaustive],
        ),
    ],
)
def test_run_killed_anywhere_ends_with_the_same_bits(compose_config, tmp_path, overrides, moments):
    def run(name, probe=None):
        return fit(compose_config(*overrides, f"output_dir={tmp_path / name}", "ckpt_path=last"), probe)

    run("whole")
    kills = 0
    for moment in moments:
        try:
            run("killed", KillAt(*moment))
        except Killed:
            kills += 1
    assert kills >= min(5, len(moments))
    run("killed")
    assert differences(last(tmp_path / "whole"), last(tmp_path / "killed")) == []
    assert curve(tmp_path / "killed") == curve(tmp_path / "whole")


@pytest.mark.slow
@pytest.mark.exhaustive
def test_a_compiled_model_sees_all_sizes(compose_config):
    torch._dynamo.reset()
    short = ["data.size_schedule=[16,32]", "trainer.max_epochs=2", "model.depth=1", "attention=linformer"]
    base = [line for line in FAKE if not line.startswith(("trainer.max_epochs", "model.depth"))] + ["logger=none"]
    eager, compiled = (fit(compose_config(*base, *short, f"compile={flag}")) for flag in ("false", "true"))
    torch.testing.assert_close(torch.tensor(eager.losses), torch.tensor(compiled.losses))


@pytest.mark.parametrize(
    ("overrides", "message"),
    [
        (["data.size_schedule=[16,64]"], "sizes above data.img_size=32"),
        (["data.size_schedule=[16,32]", "trainer.max_epochs=null", "+trainer.max_steps=9"], "set trainer.max_epochs"),
        (["data.size_schedule=[]"], "size_schedule"),
        (["data.augment.mixup.off_epochs=1"], "has no effect without mixup_alpha"),
    ],
)
def test_settings_without_effect_are_refused(compose_config, overrides, message):
    with pytest.raises(ConfigError, match=message):
        compose_config(*overrides)


@pytest.mark.parametrize(
    ("overrides", "message"),
    [
        (["data.size_schedule=[8,16,32]"], "has 3 sizes, more than trainer.max_epochs=1"),
        (["data.size_schedule=[20]"], "they do not divide into patches of 8 px"),
        (["data.size_schedule=[16]", "micro_batch_size=4", "+trainer.limit_train_batches=4"], "counts micro batches"),
    ],
)
def test_runs_that_cannot_follow_are_refused(compose_config, overrides, message):
    with pytest.raises(ValueError, match=message):
        fit(compose_config(*FAKE, "logger=none", *overrides))


@pytest.mark.slow
@pytest.mark.exhaustive  # tests/data/test_size_schedule.py compares the images of a step on any number of ranks
def test_two_processes_equal_one(compose_config, tmp_path):
    base = [line for line in RUN if "deterministic" not in line and "drop" not in line]
    base += ["optimizer=sgd", "callbacks=default", "logger=none"]
    base = [line for line in base if "ema" not in line]
    one = fit(compose_config(*base))
    (tmp_path / "two").mkdir()
    two = compose_config(*base, "hardware=ddp_cpu", f"output_dir={tmp_path / 'two'}")
    processes.launch("fvit.train", two, tmp_path / "two", 2)
    weights = last(tmp_path / "two")["state_dict"]
    for name, weight in one.module.model.state_dict().items():
        torch.testing.assert_close(weights[f"model.{name}"], weight, rtol=0, atol=1e-5)
