"""Draw docs/quickstart.svg and update the quickstart's figures in the documentation: `make figures`.

`python docs/quickstart.py [SWEEP]` reads a finished `make train`, by default the newest sweep in logs/train/multiruns.
"""

import csv
import json
import re
import sys
from pathlib import Path
from typing import Any

import matplotlib.pyplot as plt
from omegaconf import OmegaConf

ROOT = Path(__file__).resolve().parents[1]
PAGES = ("README.md", "docs/first_run.md")
BEGIN, END = "<!-- quickstart: written by `make figures` -->", "<!-- /quickstart -->"


def read(job: Path) -> dict[str, Any]:
    """Name, validation accuracy per epoch in percent, metrics and duration of a finished job."""
    with (job / "csv" / "metrics.csv").open(encoding="utf-8") as file:
        curve = [100 * float(row["val/acc1"]) for row in csv.DictReader(file) if row["val/acc1"]]
    config, result = OmegaConf.load(job / "config.yaml"), json.loads((job / "metrics.json").read_text())
    name = {"additive": "FViT (additive attention)", "softmax": "the same ViT with softmax attention"}
    return {
        "name": name.get(config.model.attention.name, config.title),
        "curve": curve,
        "metrics": result["metrics"],
        "seconds": result["seconds"],
    }


def draw(jobs: list[dict[str, Any]], out: Path) -> None:
    """Plot validation accuracy over epochs."""
    plt.rcParams["svg.hashsalt"] = "fvit"
    figure, axes = plt.subplots(figsize=(7, 3.4), layout="constrained")
    for job in jobs:
        epochs = range(1, len(job["curve"]) + 1)
        axes.plot(epochs, job["curve"], linewidth=1.8, label=f"{job['name']}: {job['curve'][-1]:.1f} %")
    axes.set(xlabel="epoch", ylabel="validation accuracy, %", ylim=(0, 101), title="Handwritten digits, 32 px, CPU")
    axes.grid(alpha=0.25)
    axes.spines[["top", "right"]].set_visible(False)
    axes.legend(frameon=False, loc="lower right")
    figure.savefig(out, metadata={"Date": None})


def table(jobs: list[dict[str, Any]]) -> str:
    """The figures as a Markdown table."""
    lines = ["| | val acc1 | parameters | MACs per image | time |", "|---|---|---|---|---|"]
    for job in jobs:
        metrics = job["metrics"]
        lines.append(
            f"| {job['name']} | {100 * metrics['val/acc1']:.2f} % | {metrics['cost/params'] / 1e6:.2f} M | "
            f"{metrics['cost/macs'] / 1e6:.2f} M | {job['seconds']:.0f} s |"
        )
    return "\n".join(lines)


def update(page: Path, text: str) -> None:
    """Replace what stands between the markers."""
    before = page.read_text(encoding="utf-8")
    block = f"{BEGIN}\n{text}\n{END}"
    page.write_text(re.sub(f"{BEGIN}.*?{END}", lambda _: block, before, flags=re.DOTALL), encoding="utf-8")


def main() -> None:
    """Read the command line."""
    sweeps = sorted((ROOT / "logs" / "train" / "multiruns").glob("*"))
    if len(sys.argv) < 2 and not sweeps:
        sys.exit("logs/train/multiruns is empty; run `make train` first")
    sweep = Path(sys.argv[1]) if len(sys.argv) > 1 else sweeps[-1]
    finished = [
        path.parent
        for path in sorted(sweep.glob("*/metrics.json"))
        if json.loads(path.read_text())["status"] == "finished"
    ]
    if not finished:
        sys.exit(f"{sweep} has no finished job; run `make train` first")
    jobs = [read(job) for job in finished]
    draw(jobs, ROOT / "docs" / "quickstart.svg")
    for page in PAGES:
        update(ROOT / page, table(jobs))
    print(f"wrote docs/quickstart.svg and the figures in {', '.join(PAGES)}")


if __name__ == "__main__":
    main()
