"""What only a CUDA GPU can show. docs/gpu.md lists these tests; `pytest -m gpu` runs them."""

import copy
import csv
import json
from contextlib import contextmanager

import pytest
import torch
from PIL import Image
from torch import nn
from torch.utils._pytree import tree_leaves

from fvit.attention import get, names
from fvit.callbacks.ema import EMA
from fvit.data import ImageDataModule
from fvit.data.dataset import Batch
from fvit.data.inference import find_images, inference_batches
from fvit.data.transfer import SideStream
from fvit.data.transforms.batch import BatchTransform
from tests.data.pictures import photo
from tests.training.fitting import FAKE, Probe, fit

pytestmark = pytest.mark.gpu

DEVICE = "cuda"
HARDWARE = "hardware=gpu"
RUN = (*FAKE, HARDWARE, "data.num_workers=0")
DEIT = (
    dict(mixup_alpha=0.8, cutmix_alpha=1.0, prob=1.0, switch_prob=0.5, mode="elem"),
    dict(probability=0.5, mode="pixel"),
)


@contextmanager
def no_waits():
    """Inside, what makes the host wait for the device is an error."""
    torch.cuda.set_sync_debug_mode("error")
    try:
        yield
    finally:
        torch.cuda.set_sync_debug_mode("default")


def relative(found, expected):
    return float((found.double().cpu() - expected).norm() / expected.norm())


def test_batches_are_augmented_without_waiting_as_on_a_cpu():
    made = BatchTransform(10, (0.5,) * 3, (0.25,) * 3, *DEIT, seed=0)
    made.mixup.global_batch = 32
    numbers = torch.arange(32)
    images = torch.randint(0, 256, (32, 48, 48, 3), dtype=torch.uint8, generator=torch.Generator().manual_seed(0))
    draws = made.draw([(0, position) for position in range(32)], 48, 48)
    batch = Batch(images, numbers % 10, torch.zeros_like(numbers), numbers, (), draws)
    expected = made(batch, True, torch.float32)
    on_gpu = Batch(*(_to(part) for part in batch))
    made(on_gpu, True, torch.float32)
    with no_waits():
        found = made(on_gpu, True, torch.float32)
    for ours, theirs in zip(found, expected, strict=True):
        torch.testing.assert_close(ours.cpu(), theirs, rtol=0, atol=1e-6)


def _to(part):
    if isinstance(part, torch.Tensor):
        return part.to(DEVICE)
    return type(part)(*map(_to, part)) if hasattr(part, "_fields") else part


@pytest.mark.parametrize("name", names())
def test_mechanism_does_not_wait_and_is_precise(name):
    torch.manual_seed(0)
    mechanism = get(name)(96, num_heads=3)
    mechanism.set_layout((14, 14), 1, 1)
    for parameter in mechanism.parameters():  # as after training: logits of order one
        if parameter.ndim == 2 and min(parameter.shape) >= 48:
            nn.init.normal_(parameter, std=parameter.shape[1] ** -0.5)
    x, upstream = torch.randn(2, 2, 197, 96).unbind()
    expected = _run(copy.deepcopy(mechanism).double(), x.double(), upstream.double())
    mechanism, x, upstream = mechanism.to(DEVICE), x.to(DEVICE), upstream.to(DEVICE)
    for dtype, limit in ((torch.bfloat16, 0.06), (torch.float16, 0.02)):
        _run(mechanism, x, upstream, dtype)
        with no_waits():
            found = _run(mechanism, x, upstream, dtype)
        errors = [relative(ours, theirs) for ours, theirs in zip(found, expected, strict=True)]
        assert all(error <= limit for error in errors), (dtype, errors)


def _run(mechanism, x, upstream, autocast=None):
    x = x.clone().requires_grad_()
    with torch.autocast(x.device.type, autocast or torch.bfloat16, enabled=autocast is not None):
        y = mechanism(x)
    return y.detach(), torch.autograd.grad((y.to(upstream.dtype) * upstream).sum(), x)[0]


class NoWaits(Probe):
    """Raises where a step that is not logged makes the host wait."""

    def on_train_batch_start(self, trainer, module, batch, batch_idx):
        logged = (batch_idx + 1) % trainer.log_every_n_steps == 0
        torch.cuda.set_sync_debug_mode("error" if batch_idx and not logged else "default")

    def on_train_batch_end(self, trainer, module, outputs, batch, batch_idx):
        torch.cuda.set_sync_debug_mode("default")
        self.updates += 1


@pytest.mark.parametrize("extra", [(), ("callbacks=[default,ema]",), ("augment=deit",)], ids=str)
def test_training_step_does_not_wait(compose_config, extra):
    config = compose_config(*RUN, "data.num_images=192", "trainer.log_every_n_steps=4", *extra)
    assert fit(config, NoWaits()).updates == 12


def test_run_logs_memory_and_is_on_the_gpu(compose_config, tmp_path):
    probe = fit(compose_config(*RUN))
    assert next(probe.module.parameters()).device.type == DEVICE
    with (tmp_path / "run" / "csv" / "metrics.csv").open(newline="") as file:
        rows = list(csv.DictReader(file))
    for name in ("memory/peak_gib", "throughput/mfu"):
        assert any(float(row[name] or 0) > 0 for row in rows), name
    assert all(0 <= float(row["throughput/data_wait"] or 0) <= 1 for row in rows)
    assert probe.data.side_stream.arrived is not None
    assert probe.trainer.optimizers[0].param_groups[0]["fused"] is True


def test_average_is_on_the_gpu(compose_config):
    probe = fit(compose_config(*RUN, "callbacks=[default,ema]"))
    [ema] = [callback for callback in probe.trainer.callbacks if isinstance(callback, EMA)]
    assert {weight.device.type for weight in ema._average_model.parameters()} == {DEVICE}
    assert ema._average_model.n_averaged.device.type == "cpu"


def test_copies_overlap_the_computation():
    """On a device that is at work, a copy ends before what was launched in front of it."""
    side, pinned = SideStream(torch.device(DEVICE)), torch.empty(2**24, dtype=torch.uint8).pin_memory()
    work = torch.randn(4096, 4096, device=DEVICE)
    side(pinned)
    torch.cuda.synchronize()
    copied, computed = (torch.cuda.Event(enable_timing=True) for _ in range(2))
    for _ in range(50):
        work @ work
    computed.record()
    side(pinned)
    copied.record(side._stream)
    torch.cuda.synchronize()
    assert copied.elapsed_time(computed) > 0


@pytest.mark.parametrize("attention", ["additive", "softmax", "linear"])
def test_deterministic_runs_have_the_same_bits(compose_config, attention):
    config = compose_config(*RUN, f"attention={attention}", "trainer.deterministic=true", "augment=deit")
    first, second = (fit(config).module.state_dict() for _ in range(2))
    assert all(torch.equal(first[name], second[name]) for name in first)


@pytest.mark.parametrize("mode", ["true", "reduce-overhead"])
def test_compiled_run_has_the_same_losses(compose_config, mode):
    eager, compiled = (fit(compose_config(*RUN, f"compile={flag}")).losses for flag in ("false", mode))
    assert compiled == pytest.approx(eager, rel=0.02)


def test_pinned_batch_arrives_whole(compose_config):
    config = compose_config(*RUN, "augment=deit")["data"]
    pinned, plain = (
        next(iter(ImageDataModule(**{**config, "pin_memory": pin}, batch_size=16).train_dataloader()))
        for pin in (True, False)
    )
    assert pinned.images.is_pinned()
    assert pinned.draws.mix.boxes.is_pinned()
    assert type(pinned) is Batch
    assert pinned.faults == plain.faults
    for ours, theirs in zip(tree_leaves(pinned), tree_leaves(plain), strict=True):
        torch.testing.assert_close(ours, theirs, rtol=0, atol=0)


def test_images_to_predict_are_those_of_a_cpu(compose_config, tmp_path):
    for seed in range(5):
        Image.fromarray(photo(seed=seed)).save(tmp_path / f"{seed}.png")
    trained = compose_config(*RUN)["data"]
    here, there = (
        list(inference_batches(find_images(tmp_path), trained, 2, 0, torch.device(device)))
        for device in ("cpu", DEVICE)
    )
    for plain, found in zip(here, there, strict=True):
        assert found.files == plain.files
        assert found.images.device.type == DEVICE
        torch.testing.assert_close(found.images.cpu(), plain.images, rtol=0, atol=1e-6)


def test_predictions(main, compose_config, tmp_path):
    fit(compose_config(*RUN))
    Image.fromarray(photo()).save(tmp_path / "photo.png")
    done = main("predict", "ckpt_path=run", "images=photo.png", f"device={DEVICE}", "out=out.json")
    assert done.returncode == 0, done.stderr
    assert "photo.png" in (tmp_path / "out.json").read_text()


def test_bench_measures_a_gpu(main, tmp_path):
    what = ("attention=additive,softmax", "model=vit_atto", "res=32", "runs=3", "seconds=1", "compile=false")
    done = main("bench", *what, f"device={DEVICE}")
    assert done.returncode == 0, done.stderr
    [path] = tmp_path.rglob("bench.json")
    content = json.loads(path.read_text())
    assert content["machine"]["device"] == DEVICE
    assert [row["precision"] for row in content["rows"]] == ["bf16"] * 2
    assert all(row["train_peak_mib"] > 0 and 0 < row["mfu"] < 1 for row in content["rows"])
