"""What `fvit-train` makes of the device: speed against a bare loop, EMA, loader, resuming, several devices."""

import contextlib
import csv
import os
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import torch
from PIL import Image
from torch import nn

from gpu_check.measure import counting_waits, synchronise
from gpu_check.report import Report

_SHORT = ("data=fake", "trainer.max_epochs=1", "scheduler.warmup_epochs=0", "quiet=true", "augment=none")


def trainer(report: Report) -> None:
    """`fvit.train.train` against a loop written by hand with the same loader; waits by line; the cost of EMA."""
    speed = {}
    with report.attempt("bare loop"):
        speed["bare"] = bare_loop(compose(report))
        report.measured("bare loop", images_per_s=speed["bare"])
    for name, extra in (("fvit-train", []), ("with callbacks=[default,ema]", ["callbacks=[default,ema]"])):
        with report.attempt(name), counting_waits(report.device) as found:
            metrics = run(compose(report, *extra))
            speed[name] = metrics["throughput/images_per_s"]
            per_step = {line: count / _steps(report) for line, count in found.most_common(8)}
            waited = metrics["throughput/data_wait"]
            report.measured(name, images_per_s=speed[name], data_wait=waited, waits_per_step=per_step)
    for what, ours, theirs, least in (
        ("fvit-train reaches 0.95 of the bare loop", "fvit-train", "bare", 0.95),
        ("EMA costs less than 3 %", "with callbacks=[default,ema]", "fvit-train", 0.97),
    ):
        with report.attempt(what):
            ratio = speed[ours] / speed[theirs]
            if report.tiny:
                report.measured(f"{what} (too short to tell)", ratio=ratio)
            else:
                report.claim(what, ratio >= least, ratio=ratio)


def loader(report: Report) -> None:
    """Images per second of our loader and of torchvision's ImageFolder, on JPEGs with random crops."""
    from torch.utils.data import DataLoader
    from torchvision import transforms
    from torchvision.datasets import ImageFolder

    from fvit.data import ImageDataModule

    workers, count = (0, 40) if report.tiny else (len(os.sched_getaffinity(0)), 4000)
    with tempfile.TemporaryDirectory() as folder:
        for split in ("train", "val"):
            _write_jpegs(Path(folder) / split, count if split == "train" else 10)
        crop = [transforms.RandomResizedCrop(224), transforms.RandomHorizontalFlip(), transforms.PILToTensor()]
        theirs = DataLoader(
            ImageFolder(f"{folder}/train", transforms.Compose(crop)), 20, shuffle=True, num_workers=workers
        )
        ours = ImageDataModule(
            "folder", 224, 20, num_workers=workers, root=folder, augment={"transform": {"no_aug": False}}
        )
        speed = {}
        for name, batches in (("ours", ours.train_dataloader()), ("ImageFolder", theirs)):
            with report.attempt(name):
                start = time.perf_counter()
                seen = sum(len(batch[0]) for batch in batches)
                speed[name] = seen / (time.perf_counter() - start)
                report.measured(f"{name}, {workers} workers", images_per_s=speed[name])
        with report.attempt("our loader is as fast as ImageFolder"):
            ratio = speed["ours"] / speed["ImageFolder"]
            if report.tiny:
                report.measured("ours to ImageFolder (too short to tell)", ratio=ratio)
            else:
                report.claim("our loader is at least as fast as ImageFolder", ratio >= 1, ratio=ratio)


def resume(report: Report) -> None:
    """A run that is killed and resumed has the losses of one that was not."""
    steps = 24 if report.tiny else 60
    fixed = (
        *("data=fake", f"data.num_images={16 * steps}", "global_batch_size=16", "model.depth=2", "augment=deit"),
        *("trainer.max_epochs=1", "scheduler.warmup_epochs=0", "trainer.log_every_n_steps=1", "logger=csv"),
        *("trainer.deterministic=true", "model.drop_path_rate=0.1", "callbacks.last.every_n_train_steps=4"),
        *(["hardware=gpu"] if report.on_gpu else []),
    )
    with tempfile.TemporaryDirectory() as folder:
        whole, killed = Path(folder) / "whole", Path(folder) / "killed"
        _command("train", *fixed, f"hydra.run.dir={whole}")
        process = _start("train", *fixed, f"hydra.run.dir={killed}")
        last = killed / "checkpoints" / "last.ckpt"
        try:
            while process.poll() is None and not last.is_file():
                time.sleep(0.02)
        finally:
            with contextlib.suppress(ProcessLookupError):
                os.killpg(process.pid, signal.SIGKILL)
            process.wait()
        if process.returncode != -signal.SIGKILL:
            raise RuntimeError(f"the run ended with code {process.returncode} before it could be killed")
        _command("train", f"ckpt_path={killed}")
        expected, found = _losses(whole), _losses(killed)
        worst = max(abs(expected[step] - found[step]) for step in expected)
        what = f"killed and resumed: the same {len(expected)} losses"
        report.claim(what, found.keys() == expected.keys() and worst == 0, largest_difference=worst)


def devices(report: Report) -> None:
    """One epoch on two devices, over NCCL, or over gloo in a trial on a CPU."""
    if report.on_gpu and torch.cuda.device_count() < 2:
        report.skipped("DDP over NCCL", "one GPU")
        return
    hardware = ["hardware=ddp", "trainer.devices=2"] if report.on_gpu else ["hardware=ddp_cpu"]
    fixed = ("data=fake", "data.num_images=64", "global_batch_size=16", "model.depth=1", "logger=csv")
    losses = []
    with tempfile.TemporaryDirectory() as folder:
        for name, further in (("one", ["hardware=gpu"] if report.on_gpu else []), ("two", hardware)):
            length = ("trainer.max_epochs=1", "scheduler.warmup_epochs=0", "trainer.log_every_n_steps=1")
            _command("train", *fixed, *length, "augment=none", *further, f"hydra.run.dir={folder}/{name}")
            losses.append(_losses(Path(folder) / name))
    one, two = losses
    worst = max(abs(one[step] - two[step]) for step in one)
    # In bf16, sums in another order differ by more.
    limit = 1e-2 if report.on_gpu else 1e-4
    report.claim(f"two devices train like one, to {limit:g}", worst <= limit, largest_difference=worst)


def compose(report: Report, *overrides: str) -> dict[str, Any]:
    """The configuration of a short run."""
    from hydra import compose as composed
    from hydra import initialize_config_dir

    from fvit.config import validation
    from fvit.config.paths import conf_dir
    from fvit.config.schemas.train import Train

    size = ["model.depth=1", "global_batch_size=16"]
    if not report.tiny:
        size = ["model=vit_small", "data.img_size=224", "data.image_size=224", "global_batch_size=256"]
        size += [f"data.num_workers={max(1, len(os.sched_getaffinity(0)) - 2)}"]
    hardware = ["hardware=gpu"] if report.on_gpu else []
    fixed = [*_SHORT, *hardware, *size, "title=check", f"output_dir={tempfile.mkdtemp()}"]
    with initialize_config_dir(str(conf_dir()), version_base="1.3"):
        config = composed("train", overrides=[*fixed, *overrides])
        config.data.num_images = _steps(report) * config.global_batch_size
        return validation.check(config, Train)


def run(config: dict[str, Any]) -> dict[str, float]:
    """Train as the command does."""
    from fvit.train import train

    return train(config)


def bare_loop(config: dict[str, Any]) -> float:
    """Images per second of the loop that one writes by hand, without its first steps."""
    from fvit.data import ImageDataModule
    from fvit.train import build_module
    from fvit.training.optimization import build_optimizer

    device = torch.device("cuda" if config["trainer"]["accelerator"] == "gpu" else "cpu")
    data = ImageDataModule(**config["data"], batch_size=config["global_batch_size"], seed=config["seed"])
    module = build_module(config, data)
    model, optimizer = module.model.to(device).train(), build_optimizer(module.model, config["optimizer"])
    for step, (images, labels) in enumerate(_on_device(data, device)):
        if step == 2:
            synchronise(device)
            start = time.perf_counter()
        with torch.autocast(device.type, torch.bfloat16, enabled=config["trainer"]["precision"] == "bf16-mixed"):
            loss = module.loss(model(images), labels)
        loss.backward()
        nn.utils.clip_grad_norm_(model.parameters(), config["trainer"]["gradient_clip_val"])
        optimizer.step()
        optimizer.zero_grad()
    synchronise(device)
    return (step - 1) * len(images) / (time.perf_counter() - start)


def _on_device(data: Any, device: torch.device) -> Iterator[tuple[torch.Tensor, torch.Tensor]]:
    for batch in data.train_dataloader():
        images, labels = (part.to(device, non_blocking=True) for part in (batch.images, batch.labels))
        yield data.batch_transform(batch._replace(images=images, labels=labels), True, torch.float32)


def _steps(report: Report) -> int:
    return 6 if report.tiny else 60


def _write_jpegs(folder: Path, count: int) -> None:
    """Noise of ImageNet's usual dimensions; 20 files, and links to them."""
    rng = np.random.default_rng(0)
    for number in range(count):
        path = folder / f"class{number % 2}" / f"{number}.jpg"
        path.parent.mkdir(parents=True, exist_ok=True)
        if number < 20:
            coarse = Image.fromarray(rng.integers(0, 256, (19, 25, 3), dtype=np.uint8))
            coarse.resize((500, 375), Image.Resampling.BICUBIC).save(path, quality=92)
        else:
            path.hardlink_to(folder / f"class{number % 2}" / f"{number % 20}.jpg")


def _losses(folder: Path) -> dict[int, float]:
    with (folder / "csv" / "metrics.csv").open(newline="") as file:
        rows = [row for row in csv.DictReader(file) if row.get("train/loss")]
    return {int(row["step"]): float(row["train/loss"]) for row in rows}


def _start(task: str, *arguments: str, output: int = subprocess.DEVNULL) -> subprocess.Popen:
    command = [sys.executable, "-m", f"fvit.{task}", *arguments]
    return subprocess.Popen(command, stdout=output, stderr=output, text=True, start_new_session=True)


def _command(task: str, *arguments: str) -> None:
    process = _start(task, *arguments, output=subprocess.PIPE)
    out, err = process.communicate(timeout=300)
    if process.returncode:
        last = (err.strip() or out.strip()).splitlines()[-1:]
        raise RuntimeError(f"fvit-{task} ended with code {process.returncode}: {''.join(last)}")
