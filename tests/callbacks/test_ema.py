"""Averaged weights: the warm-up of the decay, the start, warnings."""

import logging
from types import SimpleNamespace

import pytest
import torch
from lightning import LightningModule
from torch import nn

from fvit.callbacks.ema import EMA
from tests.training.fitting import DIGITS, Probe, fit

AVERAGED = ("logger=none", "callbacks=ema", "+trainer.limit_train_batches=4", "optimizer.lr=1e-2", "augment=none")


class Average(LightningModule):
    """The least that `EMA` needs of a module."""

    num_outputs = 2

    def __init__(self):
        super().__init__()
        self.layer = nn.Linear(2, 2)


class Both(Probe):
    """Copies the raw weights of the head after each update, and the average before the next."""

    def __init__(self):
        super().__init__()
        self.raw, self.average = [], []

    def on_train_batch_end(self, trainer, module, outputs, batch, batch_idx):
        [ema] = [callback for callback in trainer.callbacks if isinstance(callback, EMA)]
        self.raw.append(module.model.head.weight.detach().clone())
        self.average.append(ema._average_model.module.model.head.weight.detach().clone())


@pytest.mark.parametrize(
    ("options", "start"),
    [
        (("+callbacks.ema.update_starting_at_step=5",), 5),
        pytest.param((), 0, marks=pytest.mark.slow),
        pytest.param(("+callbacks.ema.update_starting_at_epoch=1",), 4, marks=pytest.mark.slow),
    ],
)
def test_average_follows_the_weights_until_its_start_and_is_then_warmed_up(compose_config, options, start):
    probe = fit(compose_config(*DIGITS, *AVERAGED, "callbacks.ema.decay=0.6", *options, "trainer.max_epochs=2"), Both())
    assert len(probe.raw) == 8
    for step in range(8):
        update = step - start
        if update <= 0:
            expected = probe.raw[step]
        else:
            decay = min(0.6, 1 - (1 + update) ** (-2 / 3))
            expected = decay * expected + (1 - decay) * probe.raw[step]
        torch.testing.assert_close(probe.average[step], expected, rtol=0, atol=1e-6)
    assert not torch.equal(probe.average[-1], probe.raw[-1])


def test_late_start_validates_the_trained_weights(compose_config):
    late = ("+callbacks.ema.update_starting_at_step=1000",)
    averaged = fit(compose_config(*DIGITS, *AVERAGED, *late)).metrics
    plain = fit(compose_config(*DIGITS, *AVERAGED[:1], "callbacks=none", *AVERAGED[2:])).metrics
    assert averaged["val/acc1"] == averaged["val_raw/acc1"] == plain["val/acc1"]
    assert averaged["val/loss"] == plain["val/loss"]


@pytest.mark.slow
def test_raw_weights_are_validated_as_without_an_average(compose_config):
    averaged = fit(compose_config(*DIGITS, *AVERAGED, "trainer.max_epochs=2")).metrics
    plain = fit(compose_config(*DIGITS, *AVERAGED[:1], "callbacks=none", *AVERAGED[2:], "trainer.max_epochs=2")).metrics
    assert averaged["val_raw/acc1"] == plain["val/acc1"]
    assert averaged["val/loss"] != plain["val/loss"]


@pytest.mark.slow
@pytest.mark.parametrize("precision", ["bf16-true", "bf16-mixed", "64-true"])
def test_average_of_other_precisions(compose_config, precision):
    options = (
        *DIGITS,
        *AVERAGED,
        f"trainer.precision={precision}",
        "trainer.max_epochs=2",
        "callbacks.ema.decay=0.999",
    )
    probe = fit(compose_config(*options), Both())
    expected = probe.raw[0].double()
    for update, weight in enumerate(probe.raw[1:], start=1):
        expected += (1 + update) ** (-2 / 3) * (weight.double() - expected)
    torch.testing.assert_close(probe.average[-1].double(), expected, rtol=0, atol=2e-3 if "bf16" in precision else 1e-6)
    assert 0 <= probe.metrics["val_raw/acc1"] <= 1


@pytest.mark.slow
def test_resumed_average_continues_its_warm_up(compose_config, tmp_path):
    recipe = (*DIGITS, "logger=none", "callbacks=[default,ema]", *AVERAGED[2:], "scheduler=constant", "seed=3")
    recipe = (*recipe, "scheduler.warmup_epochs=0", "trainer.max_epochs=2")
    whole = fit(compose_config(*recipe, f"output_dir={tmp_path / 'whole'}")).module
    fit(compose_config(*recipe, "trainer.max_epochs=1"))
    rest = fit(compose_config(*recipe, f"ckpt_path={tmp_path / 'run'}")).module
    assert all(torch.equal(weight, rest.state_dict()[name]) for name, weight in whole.state_dict().items())


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (dict(decay=0.99), "decay=0.99 averages over 100 steps, more than the 4 of this run"),
        (dict(decay=0.5), None),
        (dict(decay=0.5, update_every_n_steps=3), "over 6 steps, more than the 4"),
        (dict(update_starting_at_epoch=1), "starts after the 4 steps of this run: it averages nothing"),
        (dict(decay=0.6, update_starting_at_step=2), "more than the 2 of this run"),
        (dict(update_starting_at_step=9), "starts after the 4 steps of this run: it averages nothing"),
    ],
)
def test_average_that_is_longer_than_the_run_is_warned_of(caplog, options, message):
    with caplog.at_level(logging.WARNING, "fvit.callbacks.ema"):
        EMA(**options).on_train_start(
            SimpleNamespace(is_global_zero=True, estimated_stepping_batches=4, max_epochs=1), None
        )
    assert message in caplog.text if message else not caplog.text


def test_average_is_on_the_device_of_the_model_and_its_counter_on_the_host():
    """Lightning sets callbacks up before it moves the model."""
    trainer = SimpleNamespace(strategy=SimpleNamespace(root_device=torch.device("meta")))
    module = Average()
    ema = EMA()
    ema.setup(trainer, module, "fit")
    assert {weight.device.type for weight in module.parameters()} == {"cpu"}
    assert {weight.device.type for weight in ema._average_model.parameters()} == {"meta"}
    assert ema._average_model.n_averaged.device.type == "cpu"
    elsewhere = EMA(device="cpu")
    elsewhere.setup(trainer, module, "fit")
    assert {weight.device.type for weight in elsewhere._average_model.parameters()} == {"cpu"}


@pytest.mark.parametrize("decay", [1, -0.1, 1.5])
def test_decay_outside_of_its_range_is_rejected(decay):
    with pytest.raises(ValueError, match=rf"callbacks\.ema\.decay={decay} must be in \[0, 1\)"):
        EMA(decay)


def test_counts_are_copied_and_statistics_averaged():
    averages, weights = [torch.ones(2)], [torch.zeros(2)]
    ema = EMA(0.5)
    ema._started, ema._updates = True, 100
    ema._average(averages, weights, torch.tensor(1))
    assert averages[0].tolist() == [0.5, 0.5]
    counts = [nn.BatchNorm2d(2).num_batches_tracked + 3]
    ema._average(counts, [torch.tensor(7)], torch.tensor(1))
    assert counts[0] == 7
