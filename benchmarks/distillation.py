"""Effect of weight transfer and distillation on an additive student on digits, at the same number of steps.

    python benchmarks/distillation.py --seeds 0 1 2 --folder DIR
    python benchmarks/distillation.py --seeds 0 1 2 --folder DIR 'model.keep=[]'    # overrides for all students

For each seed, a softmax teacher (the quickstart's recipe) and students of experiment=digits_distilled: alone, with the
teacher's weights (where they fit, and its q and k), with losses against the teacher, and with both. All students of a
seed see the same images in the same order. Prints accuracy on the 360 validation images and cross-entropy after the
last epoch as mean ± half of the 95 % interval (Student's t over seeds), and differences of paired seeds.
"""

import argparse
import math
import statistics
from collections.abc import Sequence
from pathlib import Path

from hydra import compose, initialize_config_dir
from rich.console import Console
from rich.table import Table
from scipy.stats import t

from fvit.config import validation
from fvit.config.paths import conf_dir
from fvit.config.schemas.train import Train
from fvit.train import train

ARMS = {
    "alone": ["distillation=none", "model.init_from=null", "model.keep=[]"],
    "surgery": ["distillation=none", "model.init_from=TEACHER"],
    "distillation": ["distillation.teacher.path=TEACHER", "model.init_from=null", "model.keep=[]"],
    "surgery + distillation": ["distillation.teacher.path=TEACHER"],
}
PAIRS = [
    ("surgery + distillation", "alone"),
    ("surgery + distillation", "surgery"),
    ("distillation", "alone"),
]


def main() -> None:
    """Train all students of all seeds and print a table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--seeds", type=int, nargs="+", default=[0, 1, 2])
    parser.add_argument("--folder", type=Path, required=True, help="output directory of the runs")
    parser.add_argument("overrides", nargs="*")
    options = parser.parse_args()
    results: dict[str, list[dict[str, float]]] = {name: [] for name in ("teacher", *ARMS)}
    for seed in options.seeds:
        teacher = options.folder / f"teacher-{seed}"
        results["teacher"].append(run(teacher, seed, "attention=softmax"))
        for name, overrides in ARMS.items():
            folder = options.folder / f"{name.replace(' + ', '-')}-{seed}"
            arm = [override.replace("TEACHER", str(teacher)) for override in overrides]
            results[name].append(run(folder, seed, "experiment=digits_distilled", *arm, *options.overrides))
    table = Table("", "val acc1", "seeds", "val loss")
    for name, metrics in results.items():
        accuracies = [100 * values["val/acc1"] for values in metrics]
        losses = [values["val/loss"] for values in metrics]
        table.add_row(name, f"{interval(accuracies)} %", " ".join(f"{a:.1f}" for a in accuracies), interval(losses, 3))
    for better, worse in PAIRS:
        pairs = list(zip(results[better], results[worse], strict=True))
        accuracies = [100 * (one["val/acc1"] - other["val/acc1"]) for one, other in pairs]
        losses = [one["val/loss"] - other["val/loss"] for one, other in pairs]
        points = " ".join(f"{a:+.1f}" for a in accuracies)
        table.add_row(f"{better} − {worse}", f"{interval(accuracies)} points", points, interval(losses, 3))
    Console(width=140).print(table)


def run(folder: Path, seed: int, *overrides: str) -> dict[str, float]:
    """The metrics of one run."""
    fixed = [f"output_dir={folder}", f"title={folder.name}", f"seed={seed}"]
    with initialize_config_dir(str(conf_dir()), version_base="1.3"):
        config = validation.check(compose("train", overrides=[*fixed, *overrides]), Train)
    return train(config)


def interval(values: Sequence[float], digits: int = 1) -> str:
    """Mean ± half of the 95 % interval of the mean."""
    half = t.ppf(0.975, len(values) - 1) * statistics.stdev(values) / math.sqrt(len(values))
    return f"{statistics.mean(values):.{digits}f} ± {half:.{digits}f}"


if __name__ == "__main__":
    main()
