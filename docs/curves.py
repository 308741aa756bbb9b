"""Draw validation accuracy against epochs for the jobs of a multirun: `python docs/curves.py [FOLDER] [OUT]`.

FOLDER is a multirun's folder, by default the newest of logs/train/multiruns; OUT is docs/quickstart.svg.
"""

import csv
import json
import sys
from pathlib import Path

import matplotlib.pyplot as plt
from omegaconf import OmegaConf

ROOT = Path(__file__).resolve().parents[1]


def read(job: Path) -> tuple[str, list[int], list[float]]:
    """The job's title, and its epochs with their validation accuracy in percent."""
    with (job / "csv" / "metrics.csv").open(encoding="utf-8") as file:
        rows = [row for row in csv.DictReader(file) if row["val/acc1"]]
    title = OmegaConf.load(job / "config.yaml").title
    return title, [int(row["epoch"]) + 1 for row in rows], [100 * float(row["val/acc1"]) for row in rows]


def draw(folder: Path, out: Path) -> None:
    """Write the picture of all finished jobs."""
    jobs = [job for job in sorted(folder.iterdir()) if (job / "metrics.json").is_file()]
    finished = [job for job in jobs if json.loads((job / "metrics.json").read_text())["status"] == "finished"]
    if not finished:
        sys.exit(f"{folder} holds no finished job; run `make train` first")
    plt.rcParams["svg.hashsalt"] = "fvit"
    figure, axes = plt.subplots(figsize=(7, 3.4), layout="constrained")
    for job in finished:
        title, epochs, accuracy = read(job)
        axes.plot(epochs, accuracy, linewidth=1.8, label=f"{title}: {accuracy[-1]:.1f} %")
    axes.set(
        xlabel="epoch", ylabel="validation accuracy, %", ylim=(0, 101), title="Handwritten digits, 32 px, on a CPU"
    )
    axes.grid(alpha=0.25)
    axes.spines[["top", "right"]].set_visible(False)
    axes.legend(frameon=False, loc="lower right")
    figure.savefig(out, metadata={"Date": None})
    print(f"wrote {out}")


def main() -> None:
    """Read the command line."""
    sweeps = sorted((ROOT / "logs" / "train" / "multiruns").glob("*"))
    if len(sys.argv) < 2 and not sweeps:
        sys.exit("logs/train/multiruns holds nothing; run `make train` first")
    draw(Path(sys.argv[1]) if len(sys.argv) > 1 else sweeps[-1], Path(*sys.argv[2:3] or [ROOT / "docs/quickstart.svg"]))


if __name__ == "__main__":
    main()
