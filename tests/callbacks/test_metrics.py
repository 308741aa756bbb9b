import csv
import gc
import logging
import time
from pathlib import Path
from types import SimpleNamespace

import pytest
import torch
from lightning.pytorch.trainer.states import TrainerFn
from torch.nn.utils import clip_grad_norm_

from fvit.callbacks import metrics as metrics_module
from fvit.callbacks.metrics import Metrics
from fvit.data.transforms.image import TrainTransform
from fvit.launch.record import read_metrics
from tests.callbacks.test_data_wait import Gpu
from tests.cost.test_memory import needs_linux
from tests.training.fitting import FAKE, fit


class Clock:
    """Time that passes on request."""

    now = 0.0

    def __call__(self):
        return self.now


@pytest.fixture
def clock(monkeypatch):
    clock = Clock()
    monkeypatch.setattr(time, "perf_counter", clock)
    return clock


class Module:
    """Records what is logged."""

    def __init__(self, device="cpu"):
        self.device, self.logged = torch.device(device), {}

    def log(self, name, value, **options):
        self.logged[name] = value

    def log_dict(self, figures, **options):
        self.logged |= figures


def trainer(step=1, every=1, total=100, accumulate=1, world_size=1, global_batch=32):
    hparams = SimpleNamespace(batch_size=global_batch // accumulate // world_size)
    data = SimpleNamespace(hparams=hparams, side_stream=None)
    return SimpleNamespace(
        global_step=step,
        log_every_n_steps=every,
        estimated_stepping_batches=total,
        accumulate_grad_batches=accumulate,
        world_size=world_size,
        is_last_batch=False,
        precision="bf16-mixed",
        state=SimpleNamespace(fn=TrainerFn.FITTING),
        datamodule=data,
        strategy=SimpleNamespace(reduce=lambda values, reduce_op: values),
    )


class Run:
    """A run of a `Metrics` callback whose batches take as long as asked for."""

    def __init__(self, clock, warmup=0, device="cpu", **options):
        self.clock, self.options = clock, options
        self.metrics, self.module = Metrics(warmup=warmup), Module(device)
        self.metrics.setup(trainer(**options), self.module, "fit")
        self.metrics.on_train_start(trainer(**options), self.module)
        self.metrics.on_train_epoch_start(trainer(**options), self.module)

    def batch(self, computing, loading=0.0, step=1, index=0):
        now = trainer(step, **self.options)
        self.clock.now += loading
        self.metrics.on_train_batch_start(now, self.module, None, index)
        self.clock.now += computing
        self.metrics.on_train_batch_end(now, self.module, None, None, index)

    def validate(self, seconds, step=1):
        self.clock.now += seconds
        self.metrics.on_validation_epoch_end(trainer(step, **self.options), self.module)
        self.metrics.on_validation_end(trainer(step, **self.options), self.module)

    def end_epoch(self, step):
        self.metrics.on_train_epoch_end(trainer(step, **self.options), self.module)


def test_only_training_counts(clock):
    run = Run(clock, warmup=1)
    run.batch(5)
    run.batch(1)
    run.batch(1)
    run.validate(100)
    run.batch(1)
    assert run.metrics.images_per_s == pytest.approx(32)


def test_nothing_is_logged_before_anything_was_measured(clock):
    run = Run(clock, warmup=2)
    run.batch(1)
    run.end_epoch(1)
    assert {"throughput/images_per_s", "throughput/data_wait", "progress/seconds_left"}.isdisjoint(run.module.logged)
    assert run.metrics.images_per_s == run.metrics.data_wait == 0.0


def test_loggers_get_the_mean_since_the_last_logged_step_and_results_that_of_the_run(clock):
    run = Run(clock, every=2, global_batch=30)
    for step, loading in ((1, 0), (2, 0), (3, 2), (4, 2)):
        run.batch(1, loading, step)
    assert run.module.logged["throughput/images_per_s"] == pytest.approx(10)
    assert run.module.logged["throughput/data_wait"] == pytest.approx(2 / 3)
    run.end_epoch(4)
    assert run.module.logged["throughput/images_per_s"] == pytest.approx(15)
    assert run.module.logged["throughput/data_wait"] == pytest.approx(1 / 2)


def test_accumulated_batches_are_shares_of_a_step(clock):
    run = Run(clock, accumulate=2)
    run.batch(1, step=0, index=0)
    assert run.module.logged == {}  # a step is logged once, at its end
    run.batch(1, step=1, index=1)
    assert run.module.logged["throughput/images_per_s"] == pytest.approx(16)
    assert run.module.logged["progress/images_seen"] == 32


def test_progress_continues_where_a_run_resumes(clock):
    """A process that takes over at step 90 counts all images, but predicts from its own pace."""
    run = Run(clock, warmup=1)
    run.batch(50, step=91)
    run.batch(2, step=92)
    run.validate(4, step=92)
    run.batch(2, step=93)
    assert run.module.logged["progress/images_seen"] == 93 * 32
    # Eight seconds for two steps, validation included; seven steps are left.
    assert run.module.logged["progress/seconds_left"] == pytest.approx(7 * 4)


def test_device_hours_count_all_devices_and_continue_from_a_checkpoint(clock):
    first = Run(clock, world_size=4)
    first.validate(2 * 3600)
    assert first.module.logged["progress/device_hours"] == pytest.approx(8)
    clock.now += 3600  # nothing runs
    then = Run(clock)
    then.metrics.load_state_dict(first.metrics.state_dict())
    then.validate(1800)
    assert then.module.logged["progress/device_hours"] == pytest.approx(8.5)


# Data wait.


def test_data_wait_excludes_validation_and_checkpoints(clock):
    run = Run(clock)
    run.batch(3, loading=1)
    run.validate(100)
    run.batch(3, loading=1)
    run.metrics.on_save_checkpoint(None, None, {})
    run.batch(3, loading=100)
    run.batch(3, loading=1)
    assert run.metrics.data_wait == pytest.approx(0.25)


def data_wait_of(compose_config, caplog, tmp_path, *overrides):
    """The warnings of a run, and the data wait that its loggers and its results have."""
    soon = ("+callbacks.metrics.min_steps=4", "+callbacks.metrics.min_seconds=0.1")
    with caplog.at_level(logging.WARNING, logger="fvit.callbacks.metrics"):
        probe = fit(compose_config(*FAKE, "trainer.max_epochs=3", *soon, *overrides))
    with (tmp_path / "run" / "csv" / "metrics.csv").open(newline="") as file:
        logged = [float(row["throughput/data_wait"]) for row in csv.DictReader(file) if row["throughput/data_wait"]]
    warnings = [record.getMessage() for record in caplog.records if record.name == "fvit.callbacks.metrics"]
    return warnings, logged, probe.metrics["throughput/data_wait"]


def test_slow_loader_is_warned_of_once_with_its_settings(compose_config, monkeypatch, caplog, tmp_path):
    """Each image takes 5 ms more to load, a batch of 16 thus 80 ms."""
    load = TrainTransform.__call__

    def slow_load(self, *arguments):
        time.sleep(0.005)
        return load(self, *arguments)

    monkeypatch.setattr(TrainTransform, "__call__", slow_load)
    [warning], logged, mean = data_wait_of(compose_config, caplog, tmp_path)
    for words in ("% of the time", "data.num_workers=0", "data.decoder", "fvit-prepare bench=DIR"):
        assert words in warning
    assert mean > 0.3
    assert len(logged) == 10  # twelve steps without two of warmup
    assert max(logged) <= 1.0


@pytest.mark.slow
def test_fast_loader_is_not_warned_of(compose_config, monkeypatch, caplog, tmp_path):
    step = torch.optim.AdamW.step

    def slow_step(self, *arguments, **options):
        time.sleep(0.5)
        return step(self, *arguments, **options)

    monkeypatch.setattr(torch.optim.AdamW, "step", slow_step)
    warnings, _, mean = data_wait_of(compose_config, caplog, tmp_path)
    assert warnings == []
    assert mean < 0.1


# Memory and GPU utilisation.


def test_cpu_has_memory_and_no_utilization(clock):
    run = Run(clock)
    run.batch(1)
    assert 0 < run.module.logged["memory/peak_gib"] < 100
    assert "gpu/utilization" not in run.module.logged


@pytest.fixture
def gpu(monkeypatch):
    """A stand-in whose memory is used after its peak was reset, and whose queue is always empty."""
    reset = []
    device = Gpu()
    monkeypatch.setattr(torch.cuda, "Event", device.event)
    monkeypatch.setattr(torch.cuda, "reset_peak_memory_stats", reset.append)
    monkeypatch.setattr(torch.cuda, "max_memory_allocated", lambda device: 3 * 2**30 if reset == [device] else 0)
    return device


def test_gpu_has_memory_and_utilization(clock, gpu, monkeypatch):
    monkeypatch.setattr(torch.cuda, "utilization", lambda device: 87)
    run = Run(clock, warmup=9, device="cuda")
    run.batch(1)
    assert (run.module.logged["memory/peak_gib"], run.module.logged["gpu/utilization"]) == (3, 87)


def test_gpu_has_idle_time_and_the_share_of_its_operations_that_the_model_uses(clock, gpu, monkeypatch):
    """32 images of 2 GMACs in 0.5 s, of which the GPU was idle for 0.1 s, at 10 TFLOP/s."""
    asked, tensor = [], torch.tensor
    monkeypatch.setattr(torch, "tensor", lambda values, device: tensor(values))
    monkeypatch.setattr(metrics_module, "matmul_rate", lambda *arguments: asked.append(arguments) or 1e13)
    monkeypatch.setattr(torch.cuda, "utilization", lambda device: 87)
    monkeypatch.setattr(Module, "macs", 2e9, raising=False)
    monkeypatch.setattr(Module, "dtype", torch.float32, raising=False)
    run = Run(clock, device="cuda")
    gpu.now = 0.1
    run.batch(0.4, loading=0.1)
    assert run.module.logged["throughput/data_wait"] == pytest.approx(0.2)
    assert run.module.logged["throughput/mfu"] == pytest.approx(6 * 2e9 * 32 / 0.5 / 1e13)
    assert asked == [(torch.device("cuda"), torch.bfloat16)]


class NVMLError(Exception):
    """As that of pynvml, which is no RuntimeError: for a missing library, or a GPU that is partitioned (MIG)."""


@pytest.mark.parametrize("error", [RuntimeError("no driver"), NVMLError("Not Supported")])
@pytest.mark.parametrize("answers", [0, 1], ids=["never", "not any more"])
def test_missing_utilization_is_warned_of_once(clock, gpu, monkeypatch, caplog, error, answers):
    left = [87] * answers

    def utilization(device):
        if left:
            return left.pop()
        raise error

    run, logged = Run(clock, warmup=9, device="cuda"), []
    monkeypatch.setattr(torch.cuda, "utilization", utilization)
    with caplog.at_level(logging.WARNING):
        for _ in range(answers + 2):
            run.module.logged.clear()
            run.batch(1)
            logged.append(run.module.logged.get("gpu/utilization"))
    assert logged == [87] * answers + [None, None]
    assert [record.getMessage() for record in caplog.records] == [f"GPU utilization is not logged: {error}"]


@pytest.fixture
def no_collection():
    """Python collects cycles when it likes, maybe between two jobs."""
    gc.disable()
    yield
    gc.enable()


@needs_linux
@pytest.mark.slow
def test_job_after_a_larger_one_reports_its_own_peak(main, no_collection):
    run = ["data=fake", "data.num_images=16", "global_batch_size=8", "model.depth=1", "debug=limit", "logger=none"]
    done = main("train", "-m", *run, "trainer.max_epochs=1", "model.embed_dim=1200,24", "hydra.sweep.dir=swept")
    assert done.returncode == 0, done.stderr
    large, small = (read_metrics(Path("swept") / job)["metrics"] for job in "01")
    # The weights, their gradients and the optimizer's two moments, without what libraries load in the first job only.
    freed = 4 * 4 * (large["cost/params"] - small["cost/params"]) / 2**30
    assert freed > 0.2
    assert large["memory/peak_gib"] - small["memory/peak_gib"] > 0.7 * freed


# Gradient norm.


def logged_norms(folder):
    with (folder / "csv" / "metrics.csv").open(newline="") as file:
        return [float(row["grad_norm"]) for row in csv.DictReader(file) if row.get("grad_norm")]


@pytest.mark.parametrize("accumulated", [(), ("micro_batch_size=8",)], ids=["whole", "accumulated"])
def test_grad_norm_is_that_before_clipping(compose_config, tmp_path, monkeypatch, accumulated):
    norms = []

    def clip(*arguments, **options):
        norms.append(clip_grad_norm_(*arguments, **options))
        return norms[-1]

    monkeypatch.setattr(torch.nn.utils, "clip_grad_norm_", clip)
    fit(compose_config(*FAKE, "trainer.gradient_clip_val=0.01", *accumulated))
    assert len(norms) == 4
    assert min(norms) > 0.01
    assert logged_norms(tmp_path / "run") == pytest.approx([norm.item() for norm in norms], rel=1e-5)


def test_grad_norm_is_computed_in_logged_steps_only(compose_config, tmp_path, monkeypatch):
    calls = []
    monkeypatch.setattr(metrics_module, "get_total_norm", lambda gradients: calls.append(1) or torch.tensor(2.0))
    fit(compose_config(*FAKE, "trainer.log_every_n_steps=2", "trainer.gradient_clip_val=null"))
    assert logged_norms(tmp_path / "run") == [2.0, 2.0]
    assert len(calls) == 2
