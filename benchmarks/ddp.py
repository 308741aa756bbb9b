"""What two processes under DDP do, against two single processes side by side, on a CPU.

    python benchmarks/ddp.py                 FViT-Ti/16 at 224 px, 32 images a process, three rounds
    python benchmarks/ddp.py --rounds 1 --set model=vit_small
    python benchmarks/ddp.py --json FILE     also as JSON

In each round two runs of `fvit-train` train at the same time, each with a thread, then one with ``hardware=ddp_cpu``,
whose two processes have a thread each, too. The images a second are those that the runs report: their steps without
the first two, loading included. Single processes that wait for nobody are the limit; what is missing to 1 is what DDP
takes for averaging gradients, and the waiting of one process for the other.
"""

import argparse
import json
import os
import platform
import statistics
import subprocess
import sys
import tempfile
from pathlib import Path

import torch
from rich.console import Console
from rich.table import Table

PROCESSES = 2
RUN = [
    "data=fake",
    "model=vit_tiny",
    "data.img_size=224",
    "data.image_size=256",
    "trainer.max_epochs=1",
    "scheduler.warmup_epochs=0",
    "callbacks=none",
    "logger=none",
    "+trainer.limit_val_batches=0",
]


def main() -> None:
    """Measure, print and write."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--steps", type=int, default=14, help="of a run, of which two warm up")
    parser.add_argument("--batch", type=int, default=32, help="images a process")
    parser.add_argument("--set", nargs="+", default=[], help="further overrides")
    parser.add_argument("--json", type=Path)
    options = parser.parse_args()
    single = [*RUN, *size(options.batch, options.steps), *options.set]
    both = [*RUN, *size(PROCESSES * options.batch, options.steps), "hardware=ddp_cpu", *options.set]
    rounds = [
        dict(single=sum(side_by_side([single] * PROCESSES)), ddp=sum(side_by_side([both])))
        for _ in range(options.rounds)
    ]
    for taken in rounds:
        taken["ratio"] = taken["ddp"] / taken["single"]
    table = Table("", "two singles", "DDP", "ratio", title="Images a second; target ≥ 0.9", title_justify="left")
    medians = {key: statistics.median(taken[key] for taken in rounds) for key in rounds[0]}
    for name, taken in (*((f"round {number}", taken) for number, taken in enumerate(rounds, 1)), ("median", medians)):
        table.add_row(name, f"{taken['single']:.1f}", f"{taken['ddp']:.1f}", f"{taken['ratio']:.3f}")
    Console(width=100).print(table)
    if options.json:
        machine = dict(processor=platform.processor() or platform.machine(), cpus=os.cpu_count())
        content = dict(rounds=rounds, median=medians, machine=machine, torch=torch.__version__)
        options.json.write_text(json.dumps(content, indent=2) + "\n")


def size(batch: int, steps: int) -> list[str]:
    """An epoch of so many steps."""
    return [f"global_batch_size={batch}", f"data.num_images={batch * steps}"]


def side_by_side(runs: list[list[str]]) -> list[float]:
    """Images a second of runs that go at the same time."""
    with tempfile.TemporaryDirectory() as base:
        folders = [Path(base) / str(number) for number in range(len(runs))]
        children = []
        for folder, overrides in zip(folders, runs, strict=True):
            command = [sys.executable, "-m", "fvit.train", *overrides, f"hydra.run.dir={folder}"]
            environment = {**os.environ, "OMP_NUM_THREADS": "1"}
            with (Path(base) / f"{folder.name}.txt").open("wb") as output:
                children.append(subprocess.Popen(command, env=environment, stdout=output, stderr=subprocess.STDOUT))
        for folder, child in zip(folders, children, strict=True):
            assert child.wait() == 0, (Path(base) / f"{folder.name}.txt").read_text()
        return [
            json.loads((folder / "metrics.json").read_text())["metrics"]["throughput/images_per_s"]
            for folder in folders
        ]


if __name__ == "__main__":
    main()
