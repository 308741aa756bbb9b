"""How long `fvit-train` takes to compose a configuration, and to reach its first step, against two imports.

    python benchmarks/startup.py                 five rounds
    python benchmarks/startup.py --rounds 9
    python benchmarks/startup.py --json FILE     also as JSON

Each round starts three processes, one after the other: ``python -c "import torch, lightning"``, ``fvit-train --cfg
job``, and ``fvit-train``, the quickstart, which is ended when its first batch is there. What that one takes to build
model and data is measured inside and taken off. CPU time is the process's, of all threads: it says more where other
work wants the same cores.
"""

import argparse
import json
import os
import platform
import statistics
import subprocess
import sys
import tempfile
import time
from functools import wraps
from pathlib import Path
from typing import Any

from lightning import Callback
from rich.console import Console
from rich.table import Table

REPORT = "FVIT_STARTUP_REPORT"
TRAIN = ["-m", "fvit.train"]
CASES = {
    "import torch, lightning": ["-c", "import torch, lightning"],
    "compose": [*TRAIN, "--cfg", "job"],
    "first step": [*TRAIN, f"+callbacks.first._target_={Path(__file__).stem}.FirstStep"],
}
TARGETS = {"compose": "≤ 0.3", "first step": "≤ 1.5"}


def main() -> None:
    """Measure, print and write."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--json", type=Path)
    options = parser.parse_args()
    rounds = [{name: start(arguments) for name, arguments in CASES.items()} for _ in range(options.rounds)]
    results = {
        name: {
            clock: statistics.median(taken[name][clock] for taken in rounds)
            for clock in ("wall", "cpu", "building", "building_cpu")
        }
        for name in CASES
    }
    print_table(Console(width=120), results)
    if options.json:
        machine = dict(processor=platform.processor() or platform.machine(), cpus=os.cpu_count())
        content = dict(results=results, rounds=rounds, machine=machine, python=platform.python_version())
        options.json.write_text(json.dumps(content, indent=2) + "\n")


def print_table(console: Console, results: dict[str, dict[str, float]]) -> None:
    """A row a command."""
    table = Table(title="Start, medians; ratios without building model and data", title_justify="left")
    for name in ("command", "target", "time", "CPU time", "building", "ratio", "ratio of CPU times"):
        table.add_column(name)
    base = results["import torch, lightning"]
    for name, r in results.items():
        table.add_row(
            name,
            TARGETS.get(name, ""),
            f"{r['wall']:.2f} s",
            f"{r['cpu']:.2f} s",
            f"{r['building']:.2f} s",
            f"{(r['wall'] - r['building']) / base['wall']:.2f}",
            f"{(r['cpu'] - r['building_cpu']) / base['cpu']:.2f}",
        )
    console.print(table)


def start(arguments: list[str]) -> dict[str, float]:
    """Seconds from a process's start to its end, its CPU time, and what it says that it built."""
    with tempfile.TemporaryDirectory() as folder:
        report = Path(folder) / "report.json"
        paths = [str(Path(__file__).parent), *filter(None, [os.environ.get("PYTHONPATH")])]
        environment = {**os.environ, REPORT: str(report), "PYTHONPATH": os.pathsep.join(paths)}
        with (Path(folder) / "output.txt").open("w+") as output:
            began = time.perf_counter()
            child = subprocess.Popen(
                [sys.executable, *arguments], cwd=folder, env=environment, stdout=output, stderr=subprocess.STDOUT
            )
            _, status, usage = os.wait4(child.pid, 0)
            wall = time.perf_counter() - began
            child.returncode = os.waitstatus_to_exitcode(status)
            output.seek(0)
            assert child.returncode == 0, output.read()
        built = json.loads(report.read_text()) if report.is_file() else dict(building=0.0, building_cpu=0.0)
    return dict(wall=wall, cpu=usage.ru_utime + usage.ru_stime, **built)


class FirstStep(Callback):
    """Ends the process when the first batch is there, and tells how long model and data took to build."""

    def __init__(self) -> None:
        from fvit.data import ImageDataModule
        from fvit.training import Classifier

        self.built = dict(building=0.0, building_cpu=0.0)
        for cls in (ImageDataModule, Classifier):
            cls.__init__ = self._timed(cls.__init__)

    def on_train_batch_start(self, *args: Any) -> None:
        """Tell, and end."""
        Path(os.environ[REPORT]).write_text(json.dumps(self.built))
        os._exit(0)

    def _timed(self, build: Any) -> Any:
        @wraps(build)
        def timed(*arguments: Any, **options: Any) -> None:
            wall, cpu = time.perf_counter(), time.process_time()
            build(*arguments, **options)
            self.built["building"] += time.perf_counter() - wall
            self.built["building_cpu"] += time.process_time() - cpu

        return timed


if __name__ == "__main__":
    main()
