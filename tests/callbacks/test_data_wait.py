import csv
import logging
import time

import pytest
import torch

from fvit.callbacks.data_wait import DataWait
from fvit.data.transforms.image import TrainTransform
from tests.training.fitting import FAKE, fit


class Trainer:
    """A trainer that logs no step."""

    global_step, log_every_n_steps, accumulate_grad_batches, is_last_batch = 1, 1000, 1, False


def take(wait, clock, loading, computing):
    clock.now += loading
    wait.on_train_batch_start(None, None, None, 0)
    clock.now += computing
    wait.on_train_batch_end(Trainer, None, None, None, 0)


def test_the_share_is_of_the_time_between_steps(clock):
    wait = DataWait(warmup=1)
    wait.on_train_epoch_start(None, None)
    take(wait, clock, loading=60, computing=1)  # workers start
    take(wait, clock, loading=1, computing=3)
    take(wait, clock, loading=1, computing=3)
    assert wait.share == pytest.approx(0.25)


def test_validation_and_checkpoints_are_no_waiting(clock):
    wait = DataWait(warmup=0)
    wait.on_train_epoch_start(None, None)
    take(wait, clock, loading=1, computing=3)
    clock.now += 100
    wait.on_validation_end(None, None)
    take(wait, clock, loading=1, computing=3)
    wait.on_save_checkpoint(None, None, {})
    take(wait, clock, loading=100, computing=3)
    take(wait, clock, loading=1, computing=3)
    assert wait.steps == 3
    assert wait.share == pytest.approx(0.25)


@pytest.fixture
def slow(monkeypatch):
    """Each image takes 5 ms more to load, a batch of 16 thus 80 ms."""
    load = TrainTransform.__call__

    def slow_load(self, *arguments):
        time.sleep(0.005)
        return load(self, *arguments)

    monkeypatch.setattr(TrainTransform, "__call__", slow_load)


def warnings_of(compose_config, monkeypatch, caplog, *overrides):
    monkeypatch.setattr(DataWait.__init__, "__defaults__", (0.1, 2, 4, 0.1))  # warn after 4 steps and 0.1 s
    with caplog.at_level(logging.WARNING, logger="fvit.callbacks.data_wait"):
        probe = fit(compose_config(*FAKE, "trainer.max_epochs=3", *overrides))
    return probe, [record.getMessage() for record in caplog.records if record.name == "fvit.callbacks.data_wait"]


def test_a_slow_loader_is_warned_of_once_with_its_settings(compose_config, monkeypatch, caplog, slow, tmp_path):
    probe, warnings = warnings_of(compose_config, monkeypatch, caplog)
    [warning] = warnings
    for word in ("% of the time", "data.num_workers=0", "data.decoder", "fvit-prepare bench=DIR"):
        assert word in warning
    assert probe.metrics["throughput/data_wait"] > 0.3
    with (tmp_path / "run" / "csv" / "metrics.csv").open(newline="") as file:
        shares = [float(row["throughput/data_wait"]) for row in csv.DictReader(file) if row["throughput/data_wait"]]
    assert len(shares) == 10  # of twelve steps two warm up
    assert max(shares) <= 1.0


@pytest.mark.slow
def test_a_fast_loader_is_not_warned_of(compose_config, monkeypatch, caplog):
    """The step is made slow instead."""
    step = torch.optim.AdamW.step

    def slow_step(self, *arguments, **options):
        time.sleep(0.5)
        return step(self, *arguments, **options)

    monkeypatch.setattr(torch.optim.AdamW, "step", slow_step)
    probe, warnings = warnings_of(compose_config, monkeypatch, caplog)
    assert warnings == []
    assert probe.metrics["throughput/data_wait"] < 0.1
