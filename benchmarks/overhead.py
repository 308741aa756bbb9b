"""What a training step costs under `fvit-train`, against a bare PyTorch loop.

    python benchmarks/overhead.py                 FViT-Ti/16 at 224 px, batch 32; then a small model, which shows more
    python benchmarks/overhead.py --steps 10      fewer steps
    python benchmarks/overhead.py --json FILE     also as JSON

Both train in this process and take turns: after each step of ours, which runs as `fvit.train.train` runs it with its
callbacks, metrics, logger and progress, a callback hands over to the bare loop for a step of its own: on the same
images, with the same augmentation, optimizer, clipping and schedule, and on a copy of the model. A step goes from the
end of the one before it, so that its batch is loaded within it. Ours logs each step, where the default is one in ten.
CPU time is that of all threads, summed over all steps: it says more where other work wants the same cores.
Both must have done the same work: their weights are compared at the end, bit for bit.
"""

import os

# As fvit-train does, and before torch is imported.
os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")

import argparse
import copy
import json
import platform
import statistics
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any, NamedTuple

import lightning
import torch
from hydra import compose, initialize_config_dir
from lightning import Callback, LightningModule, Trainer
from rich.console import Console
from rich.table import Table
from timm.scheduler import create_scheduler_v2
from torch import nn
from torch.nn.utils import clip_grad_norm_

from fvit.config import validation
from fvit.config.paths import conf_dir
from fvit.config.schemas.train import Train
from fvit.data import ImageDataModule
from fvit.train import train
from fvit.training import build_loss
from fvit.training.optimization import build_optimizer

WARMUP = 3
LARGE = ["model=vit_tiny", "data.img_size=224", "data.image_size=256", "global_batch_size=32"]
SMALL = ["data.image_size=32", "global_batch_size=64"]
CASES = [
    # Name, target, how many times the number of steps, overrides.
    ("FViT-Ti/16, 224 px, batch 32", "≤ 1.03", 1, LARGE),
    ("the quickstart's FViT, 32 px, batch 64", "none", 8, SMALL),
]


class Took(NamedTuple):
    """Seconds of a step, and of all threads on it."""

    wall: float
    cpu: float


def main() -> None:
    """Measure, print and write."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--steps", type=int, default=25, help="of the large model; the small one takes 8 times as many")
    parser.add_argument("--log-every", type=int, default=1, help="steps from one that is logged to the next")
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--json", type=Path)
    options = parser.parse_args()
    torch.set_num_threads(options.threads)
    results = [
        dict(name=name, target=target, **measure(overrides, times * options.steps, options.log_every))
        for name, target, times, overrides in CASES
    ]
    print_table(Console(width=120), results)
    if options.json:
        machine = dict(processor=platform.processor() or platform.machine(), threads=options.threads)
        versions = dict(torch=torch.__version__, lightning=lightning.__version__, python=platform.python_version())
        options.json.write_text(json.dumps(dict(results=results, machine=machine, versions=versions), indent=2) + "\n")


def print_table(console: Console, results: list[dict]) -> None:
    """A row a model."""
    table = Table(title="A training step under fvit-train, to one of a bare loop", title_justify="left")
    for name in ("model", "target", "time", "middle half", "CPU time", "a bare step", "ours is longer by"):
        table.add_column(name)
    for r in results:
        table.add_row(
            r["name"],
            r["target"],
            f"{r['median']:.3f}",
            f"{r['low']:.3f} to {r['high']:.3f}",
            f"{r['cpu']:.3f}",
            f"{1000 * r['bare_seconds']:.1f} ms",
            f"{1000 * r['longer_seconds']:.2f} ms",
        )
    console.print(table)


def measure(overrides: list[str], steps: int, log_every: int) -> dict[str, Any]:
    """Ratios of a step's time, median and quartiles over pairs of neighbours, and of all steps' CPU time."""
    with tempfile.TemporaryDirectory() as folder:
        config = composed([*overrides, f"trainer.log_every_n_steps={log_every}"], WARMUP + steps, folder)
        Turns.current = Turns(config, WARMUP + steps)
        train(config)
    pairs = list(zip(Turns.current.ours, Turns.current.bare, strict=True))[WARMUP:]
    assert len(pairs) == steps
    low, median, high = statistics.quantiles([ours.wall / bare.wall for ours, bare in pairs], n=4)
    return dict(
        steps=steps,
        median=median,
        low=low,
        high=high,
        cpu=sum(ours.cpu for ours, _ in pairs) / sum(bare.cpu for _, bare in pairs),
        bare_seconds=statistics.median(bare.wall for _, bare in pairs),
        longer_seconds=statistics.median(ours.wall - bare.wall for ours, bare in pairs),
    )


def composed(overrides: list[str], steps: int, folder: str) -> dict[str, Any]:
    """A run of one epoch of `steps`, in which a callback hands over to the bare loop."""
    fixed = [
        "title=overhead",
        f"output_dir={folder}",
        "data=fake",
        "trainer.max_epochs=1",
        "scheduler.warmup_epochs=0",
        f"+callbacks.turns._target_={__name__}.take_turns",
    ]
    with initialize_config_dir(str(conf_dir()), version_base="1.3"):
        cfg = compose("train", overrides=[*fixed, *overrides])
        cfg.data.num_images = steps * cfg.global_batch_size
        return validation.check(cfg, Train)


class Turns(Callback):
    """Runs the bare loop's steps between those of the trainer."""

    current: "Turns"

    def __init__(self, config: dict[str, Any], steps: int) -> None:
        self.config, self.steps = config, steps
        self.ours: list[Took] = []
        self.bare: list[Took] = []

    def on_train_start(self, trainer: Trainer, module: LightningModule) -> None:
        """Give the bare loop its copy of the model."""
        self.model = copy.deepcopy(module.model)
        self.loop = bare_loop(self.config, self.model, self.steps)
        self.mark = now()

    def on_train_batch_end(self, trainer: Trainer, module: LightningModule, *args: Any) -> None:
        """Hand over."""
        self.ours.append(since(self.mark))
        self.mark = now()
        next(self.loop)
        self.bare.append(since(self.mark))
        self.mark = now()

    def on_train_end(self, trainer: Trainer, module: LightningModule) -> None:
        """Hold the weights against each other."""
        for (name, ours), bare in zip(module.model.state_dict().items(), self.model.state_dict().values(), strict=True):
            assert torch.equal(ours, bare), f"{name} differs: the loops have not done the same"


def take_turns() -> Turns:
    """What the configuration names."""
    return Turns.current


def bare_loop(config: dict[str, Any], model: nn.Module, steps: int) -> Iterator[None]:
    """The loop that one writes by hand; it stops after each step."""
    data = ImageDataModule(**config["data"], batch_size=config["global_batch_size"], seed=config["seed"])
    loss = build_loss(**config["loss"])
    optimizer = build_optimizer(model, config["optimizer"])
    parameters = [parameter for group in optimizer.param_groups for parameter in group["params"]]
    length = dict(num_epochs=1, updates_per_epoch=steps, step_on_epochs=False)
    scheduler, _ = create_scheduler_v2(optimizer, **length, **config["scheduler"])
    for step, batch in enumerate(data.train_dataloader()):
        images, targets = data.batch_transform(batch, train=True, dtype=torch.float32)
        scheduler.step_update(step)
        optimizer.zero_grad()
        loss(model(images), targets).backward()
        clip_grad_norm_(parameters, config["trainer"]["gradient_clip_val"])
        optimizer.step()
        yield


def now() -> Took:
    """Of the wall's clock and of all threads'."""
    return Took(time.perf_counter(), time.process_time())


def since(mark: Took) -> Took:
    """What has passed."""
    wall, cpu = now()
    return Took(wall - mark.wall, cpu - mark.cpu)


if __name__ == "__main__":
    main()
