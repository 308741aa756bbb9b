from types import SimpleNamespace

import pytest

from fvit.callbacks.throughput import Throughput


class Recorder:
    """What a LightningModule is asked to log."""

    def __init__(self):
        self.logged = {}

    def log(self, name, value, **options):
        self.logged[name] = value

    def log_dict(self, figures, **options):
        self.logged |= figures


def trainer(step=1, every=1, total=100, accumulate=1):
    return SimpleNamespace(
        global_step=step,
        log_every_n_steps=every,
        estimated_stepping_batches=total,
        accumulate_grad_batches=accumulate,
        is_last_batch=False,
    )


def take(throughput, clock, seconds, module=None, step=1, batch_idx=0, **options):
    clock.now += seconds
    throughput.on_train_batch_end(trainer(step, **options), module or Recorder(), None, None, batch_idx)


def test_only_training_counts(clock):
    throughput = Throughput(images_per_step=32, warmup=1)
    throughput.on_train_epoch_start(None, None)
    take(throughput, clock, 5)  # warm-up
    take(throughput, clock, 1)
    take(throughput, clock, 1)
    clock.now += 100
    throughput.on_validation_end(None, None)
    take(throughput, clock, 1)
    assert throughput.images_per_s == pytest.approx(32)


def test_nothing_measured_is_zero():
    throughput = Throughput(images_per_step=32)
    assert throughput.images_per_s == 0.0
    assert throughput.seconds_left(trainer()) is None


def test_loggers_get_the_speed_since_they_got_it_last_and_results_the_mean(clock):
    throughput, module = Throughput(images_per_step=30, warmup=0), Recorder()
    throughput.on_train_epoch_start(None, None)
    for step, seconds in ((1, 1), (2, 1), (3, 3), (4, 3)):
        take(throughput, clock, seconds, module, step, every=2)
    assert module.logged["throughput/images_per_s"] == pytest.approx(10)
    throughput.on_train_epoch_end(trainer(4), module)
    assert module.logged["throughput/images_per_s"] == pytest.approx(15)


def test_accumulated_batches_are_shares_of_a_step(clock):
    throughput, module = Throughput(images_per_step=32, accumulate=2, warmup=0), Recorder()
    throughput.on_train_epoch_start(None, None)
    take(throughput, clock, 1, module, step=0, batch_idx=0, accumulate=2)
    assert module.logged == {}  # a step is logged once, at its end
    take(throughput, clock, 1, module, step=1, batch_idx=1, accumulate=2)
    assert module.logged["throughput/images_per_s"] == pytest.approx(16)
    assert module.logged["progress/images_seen"] == 32


def test_images_seen_and_time_left_go_on_where_a_run_goes_on(clock):
    """A process that takes over at step 90 has seen what the one before it saw, and keeps its own pace."""
    throughput, module = Throughput(images_per_step=32, warmup=1), Recorder()
    throughput.on_train_epoch_start(None, None)
    take(throughput, clock, 50, module, step=91)
    take(throughput, clock, 2, module, step=92)
    clock.now += 4
    throughput.on_validation_end(None, None)
    take(throughput, clock, 2, module, step=93)
    assert module.logged["progress/images_seen"] == 93 * 32
    # Eight seconds for two steps, validation included, and seven steps are left.
    assert module.logged["progress/seconds_left"] == pytest.approx(7 * 4)
