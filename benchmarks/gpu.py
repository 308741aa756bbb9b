"""What fvit does on one CUDA GPU, checked and timed in at most ten minutes. `make gpu-check` calls it.

    python benchmarks/gpu.py                            writes logs/benchmarks/gpu.json and gpu.md, for docs/gpu.md
    python benchmarks/gpu.py --only rates,precision     some of the steps
    python benchmarks/gpu.py --device cpu --tiny        tries the script out where there is no GPU

Each step stands alone: one that fails is a row of the table, the others follow, and the exit code is 1, as it is where
a claim does not hold or no time was left for a step. The steps rates, precision, determinism, forms and models need no
packages but torch and timm.
"""

import argparse
import importlib
import os
import platform
import sys
from pathlib import Path

# Before CUDA starts: what deterministic matrix products need.
os.environ.setdefault("CUBLAS_WORKSPACE_CONFIG", ":4096:8")

import timm
import torch
from gpu_check.report import FAILED, Report, Row

STEPS = {
    "rates": "speed",
    "precision": "numerics",
    "waits": "numerics",
    "determinism": "numerics",
    "trainer": "training",
    "resume": "training",
    "devices": "training",
    "loader": "training",
    "forms": "speed",
    "models": "speed",
}
"""The steps, and their modules in gpu_check; what takes longest and may be cut short comes last."""


def main() -> None:
    """Run the steps, write and print their tables."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--device", default="cuda", choices=["cuda", "cpu"])
    parser.add_argument("--tiny", action="store_true", help="small sizes, which show nothing but that the script works")
    parser.add_argument("--only", default=",".join(STEPS), help="steps, separated by commas")
    parser.add_argument("--seconds", type=float, default=570, help="no step starts later than this")
    parser.add_argument("--out", type=Path, default=Path("logs/benchmarks"), help="folder of gpu.json and gpu.md")
    options = parser.parse_args()
    if unknown := set(options.only.split(",")) - set(STEPS):
        parser.error(f"--only: no step is called {', '.join(sorted(unknown))}; there are {', '.join(STEPS)}")
    if options.device == "cuda" and not torch.cuda.is_available():
        parser.error("torch finds no CUDA GPU; --device cpu --tiny tries the script out without one")
    report = check(Report(torch.device(options.device), options.tiny, options.seconds, options.out), options.only)
    print(report.markdown())
    bad = [row for row in report.rows if not row.good]
    print(f"{len(report.rows)} rows, {len(bad)} of them bad; {options.out / 'gpu.json'}")
    for row in bad:
        print(f"{row.step}: {row.what}: {row.status}", file=sys.stderr)
    if not report.good:
        sys.exit(1)


def check(report: Report, only: str) -> Report:
    """Run the steps, in the order of `STEPS`."""
    report.machine = {
        "device": torch.cuda.get_device_name() if report.on_gpu else f"CPU ({platform.machine()})",
        "torch": torch.__version__,
        "CUDA": torch.version.cuda if report.on_gpu else "none",
        "timm": timm.__version__,
        "Python": platform.python_version(),
    }
    for name in (name for name in STEPS if name in only.split(",")):
        if report.late(1.0):
            report.rows.append(Row(name, "the step", f"{FAILED}no time left"))
            report.seconds[name] = 0.0
            report.write()
            continue
        with report.step(name):
            # Here, so that a package which one step needs cannot keep the others from running.
            getattr(importlib.import_module(f"gpu_check.{STEPS[name]}"), name)(report)
    return report


if __name__ == "__main__":
    main()
