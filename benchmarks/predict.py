"""How fast `fvit-predict` goes through many images, against the bare DataLoader that reads them; and its memory.

    python benchmarks/predict.py                    5,000 JPEGs of about 500 × 375, which it makes (360 MB)
    python benchmarks/predict.py --images 1000      fewer of them

Both read, decode, resize and cut the same files in the same loader processes, and take turns; a ratio is the median of
the rounds' ratios. CPU time is that of all processes: it says more where other work wants the same cores. fvit-predict
also opens its checkpoint, runs a small model on each image and writes a table. The memory is the peak of its main
process, in a process of its own, for a fifth of the images and for all.
"""

import os

# As fvit-predict does, and before torch is imported.
os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")

import argparse
import shutil
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, NamedTuple

from hydra import compose, initialize_config_dir
from loader import make_images
from pydantic import BaseModel
from rich.console import Console
from rich.table import Table
from torch.utils.data import DataLoader

from fvit.config import validation
from fvit.config.paths import conf_dir
from fvit.config.schemas.predict import Predict
from fvit.config.schemas.train import Train
from fvit.data.dataset import ImageDataset, collate
from fvit.data.formats import decode
from fvit.data.inference import find_images
from fvit.data.sampler import EvalSampler
from fvit.data.transforms.image import EvalTransform
from fvit.launch.console import console
from fvit.predict import predict
from fvit.train import train
from fvit.training import checkpoint

MODEL = ["model.patch_size=32", "model.embed_dim=24", "model.num_heads=3", "model.depth=1"]
BATCH = 64
# Of itself: what is said of a child begins with its parent's memory.
PEAK = """
import sys
from fvit.predict import main
sys.argv[0] = "fvit-predict"
try:
    main()
finally:
    status = open("/proc/self/status").read()
    print(status.split("VmHWM:")[1].split()[0], file=sys.stderr)
"""


class Took(NamedTuple):
    """Seconds, and seconds of all processors."""

    wall: float
    cpu: float


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--images", type=int, default=5000)
    parser.add_argument("--rounds", type=int, default=5)
    options = parser.parse_args()
    console.quiet = True  # theirs; the report has its own
    with tempfile.TemporaryDirectory() as folder:
        run, (few, many) = prepare(Path(folder), options.images)
        seconds = take_turns(run, many, options.rounds)
        peaks = {photos: peak_mib(run, photos) for photos in (few, many)}
    report(options.images, seconds, peaks)


def prepare(folder: Path, count: int) -> tuple[Path, tuple[Path, Path]]:
    """A trained run, and folders with a fifth of the images and with all."""
    fake = ["data=fake", "data.img_size=224", "data.num_images=64", "data.image_size=224", "global_batch_size=32"]
    length = ["trainer.max_epochs=1", "scheduler.warmup_epochs=0", "logger=none"]
    train(composed("train", Train, f"output_dir={folder / 'run'}", "title=predict", *fake, *length, *MODEL))
    (folder / "made").mkdir()
    make_images(folder / "made")
    made = sorted((folder / "made").rglob("*.JPEG"))
    for name, number in (("few", count // 5), ("many", count)):
        (folder / name).mkdir()
        for index in range(number):
            shutil.copyfile(made[index % len(made)], folder / name / f"{index:05}.jpg")
    return folder / "run", (folder / "few", folder / "many")


def composed(task: str, model: type[BaseModel], *overrides: str) -> dict[str, Any]:
    """The configuration of fvit-TASK."""
    with initialize_config_dir(str(conf_dir()), version_base="1.3"):
        return validation.check(compose(task, overrides=list(overrides)), model)


def take_turns(run: Path, photos: Path, rounds: int) -> list[tuple[Took, Took]]:
    """What the bare loader and fvit-predict took, a pair a round; the first round warms up."""
    return [(timed(bare, run, photos), timed(ours, run, photos)) for _ in range(rounds + 1)][1:]


def timed(contender: Callable[[Path, Path], None], run: Path, photos: Path) -> Took:
    """What one pass over the images takes."""
    mark, start = os.times(), time.perf_counter()
    contender(run, photos)
    # The first four are those of this process and of the loader's, which have ended.
    return Took(time.perf_counter() - start, sum(os.times()[:4]) - sum(mark[:4]))


def bare(run: Path, photos: Path) -> None:
    """Batches of pixels, and nothing is done with them."""
    trained = checkpoint.read(checkpoint.find(run))["datamodule_hyper_parameters"]
    transform = EvalTransform(decode.choose(), trained["img_size"], trained["crop_pct"], trained["interpolation"])
    images = ImageDataset(find_images(photos), transform, seed=0, replace=False)
    options = dict(sampler=EvalSampler(len(images)), collate_fn=collate, num_workers=os.cpu_count())
    assert sum(len(batch.images) for batch in DataLoader(images, BATCH, **options)) == len(images)


def ours(run: Path, photos: Path) -> None:
    """As the command line calls it."""
    predict(composed("predict", Predict, *overrides(run, photos)))


def overrides(run: Path, photos: Path) -> list[str]:
    """Those of fvit-predict."""
    files = [f"ckpt_path={run}", f"images={photos}", f"out={run / 'out.csv'}", f"output_dir={run / 'maps'}"]
    return [*files, f"batch_size={BATCH}"]


def peak_mib(run: Path, photos: Path) -> float:
    """The largest memory of fvit-predict's main process."""
    command = [sys.executable, "-c", PEAK, *overrides(run, photos)]
    done = subprocess.run(command, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    return int(done.stderr.split()[-1]) / 1024


def report(count: int, seconds: Sequence[tuple[Took, Took]], peaks: dict[Path, float]) -> None:
    """Rates as medians, and their ratio."""
    table = Table(title=f"{count:,} images, {os.cpu_count()} loader processes", title_justify="left")
    for name in ("", "images a second", "peak memory, a fifth of them", "all of them"):
        table.add_column(name)
    loader, predicted = ([count / one.wall for one in column] for column in zip(*seconds, strict=True))
    table.add_row("bare DataLoader", f"{statistics.median(loader):,.0f}", "", "")
    memory = [f"{peak:,.0f} MiB" for peak in peaks.values()]
    table.add_row("fvit-predict", f"{statistics.median(predicted):,.0f}", *memory)
    screen = Console(width=120)
    screen.print(table)
    speed = [read.wall / whole.wall for read, whole in seconds]
    told = ", ".join(f"{ratio:.2f}" for ratio in sorted(speed))
    cpu = statistics.median(whole.cpu / read.cpu for read, whole in seconds)
    screen.print(
        f"fvit-predict to the bare loader: speed {statistics.median(speed):.2f} (rounds: {told}), CPU time {cpu:.2f}"
    )


if __name__ == "__main__":
    main()
