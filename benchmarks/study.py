"""What exchange brings: one small ViT, its attention exchanged, each mechanism at its own learning rate, several seeds.

    python benchmarks/study.py cifar10 data.root=DIR              # many hours on one core; killed, it goes on
    python benchmarks/study.py cifar10_32px data.root=DIR         # whole images, 6 epochs: --only softmax identity …
    python benchmarks/study.py lookup                             # tasks that only mixing of tokens solves
    python benchmarks/study.py pointer
    python benchmarks/study.py cifar10 --only softmax additive --hours 2 data.root=DIR
    python benchmarks/study.py cifar10 --only softmax identity data.root=DIR trainer.max_epochs=8    # twice as long

Trains `experiment=study_cifar10` or `study_relations` by `fvit-train -m`: each contender first at three learning
rates (1e-3, 2e-3, and half of the one or twice the other, whichever was better), with a quarter of the epochs
(lookup: half, pointer: all) and a seed of its own, then at the best of them with all epochs and seeds 0, 1, 2 (3 and
4 for some), seed by seed, so that results are balanced whenever it stops. A finished run is a line of
docs/study/NAME.csv and is not run again, on this machine or another; an interrupted one resumes from its checkpoint
in --folder. Further arguments are overrides of all runs. `benchmarks/study_speed.py` times training, and `make study`
makes the tables and pictures of docs/study.md.
"""

import argparse
import csv
import json
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from hydra import compose, initialize_config_dir
from omegaconf import OmegaConf

from fvit.config.errors import explain
from fvit.config.paths import conf_dir

RESULTS = Path(__file__).parents[1] / "docs" / "study"
RATES = (1e-3, 2e-3)
SEARCH_SEED = 1000
STUDIES = {
    "cifar10": ["experiment=study_cifar10"],
    "cifar10_32px": ["experiment=study_cifar10", "data.img_size=32", "trainer.max_epochs=6"],
    "lookup": ["experiment=study_relations", "data.task=lookup", "trainer.max_epochs=12"],
    "pointer": ["experiment=study_relations"],
}
# What a relation needs is learned suddenly, perhaps late.
SEARCH_SHARE = {"cifar10": 4, "lookup": 2, "pointer": 1}
RATES_OF = {"cifar10_32px": "cifar10"}
"""Studies that take their learning rates from the search of another."""
PLUS = ["attention=additive_plus", "model.attention.regions=SQUARES"]
GATED = [*PLUS, "model.attention.gate=residual"]
SQUARES = {"cifar10": 9, "cifar10_32px": 16, "lookup": 4, "pointer": 4}
"""Regions of additive_plus and blocks of mhla, each of 2×2 patches."""


def plus(**ingredient: str) -> list[str]:
    """`additive` with these ingredients of additive_plus."""
    bare = {"regions": "1", "gate": "product", "value": "shared", "residual": "true", "conv": "0"}
    return [PLUS[0], *(f"model.attention.{name}={value}" for name, value in (bare | ingredient).items())]


def conv(attention: str) -> list[str]:
    """A mechanism with the depth-wise convolution of its values."""
    return [f"attention={attention}", "model.attention.conv=3"]


# In the order in which they are trained.
CONTENDERS: dict[str, list[str]] = {
    "softmax": ["attention=softmax"],
    "identity": ["attention=identity"],
    "additive": ["attention=additive"],
    "separable convolution": ["attention=sep_conv", "model.attention.kernel=3", "model.attention.expansion=1"],
    "linear": ["attention=linear"],
    "additive_plus": PLUS,
    "softmax + conv": conv("softmax"),
    "additive + conv": plus(conv="3"),
    "linear + conv": conv("linear"),
    "additive + regions": plus(regions="SQUARES"),
    "additive + regions + conv": plus(regions="SQUARES", conv="3"),
    "additive + gate": plus(gate="residual"),
    "additive + separate value": plus(value="separate"),
    "additive + projection": ["attention=additive", "model.attention.proj=true"],
    "additive, no query": plus(residual="false"),
    "additive_plus + query": [*PLUS, "model.attention.residual=true"],
    "additive_plus, no regions": [override.replace("SQUARES", "1") for override in PLUS],
    "additive_plus, no separate value": [*PLUS, "model.attention.value=shared"],
    "additive_plus + gate": GATED,
    "additive_plus + gate, no conv": [*GATED, "model.attention.conv=0"],
    "additive_plus + gate, no regions": [override.replace("SQUARES", "1") for override in GATED],
    "additive_plus + gate, no separate value": [*GATED, "model.attention.value=shared"],
    "mhla": ["attention=mhla", "model.attention.num_blocks=SQUARES"],
    "ttt": ["attention=ttt"],
    "circulant": ["attention=circulant"],
    "xca": ["attention=xca"],
    "hydra": ["attention=hydra"],
    "focused": ["attention=focused"],
    "pool": ["attention=pool"],
    "mhla + conv": [*conv("mhla"), "model.attention.num_blocks=SQUARES"],
    "ttt + conv": conv("ttt"),
    "circulant + conv": conv("circulant"),
    "xca + conv": conv("xca"),
    "hydra + conv": conv("hydra"),
    "focused + conv": conv("focused"),
    "additive, then softmax": ["attention=mixed", "model.attention.layers=[additive*2,softmax*2]"],
    "softmax, then additive": ["attention=mixed", "model.attention.layers=[softmax*2,additive*2]"],
    "softmax, class token": ["attention=softmax", "model.class_token=true", "model.global_pool=token"],
    "additive, class token": ["attention=additive", "model.class_token=true", "model.global_pool=token"],
}
FIVE_SEEDS = ("softmax", "identity", "additive", "additive_plus", "additive_plus, no separate value")
FIRST = 6
"""So many contenders get all their seeds before the others begin."""


def chosen(study: str, contender: str) -> list[str]:
    """The overrides of a contender in a study."""
    return [override.replace("SQUARES", str(SQUARES[study])) for override in CONTENDERS[contender]]


def parse(words: list[str]) -> tuple[argparse.Namespace, list[str]]:
    """The options of this script, and the overrides of all runs."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("study", choices=STUDIES)
    parser.add_argument("--only", nargs="+", choices=CONTENDERS, metavar="NAME", default=list(CONTENDERS))
    parser.add_argument("--hours", type=float, default=float("inf"), help="start no sweep after this time")
    parser.add_argument("--folder", type=Path, default=Path("logs/study"), help="output directory of the runs")
    parser.add_argument("--match", choices=("macs", "shape"), default="macs", help="what contenders have in common")
    # `--only` would take overrides that follow it for names.
    overrides = [word for word in words if "=" in word and not word.startswith("-")]
    return parser.parse_args([word for word in words if word not in overrides]), overrides


@contextmanager
def explained() -> Iterator[None]:
    """End with a message instead of a traceback on a mistake of the user, for instance in an override."""
    try:
        yield
    except Exception as error:
        if (message := explain(error)) is None:
            raise
        sys.exit(message)


@explained()
def main() -> None:
    """Train what is missing, until nothing is or the time is over."""
    options, overrides = parse(sys.argv[1:])
    study = Study(options.study, options.match, options.folder, overrides, time.monotonic() + 3600 * options.hours)
    names = list(options.only)
    if not study.searches and (unknown := [name for name in names if study.best_rate(name) is None]):
        search = f"python benchmarks/study.py {study.search_file.stem}"
        sys.exit(f"no learning rate is known for {', '.join(unknown)}: `{search}` searches it")
    for tier in (names[:FIRST], names[FIRST:]):
        for name in tier:
            study.search(name)
        for seed in range(5):
            for name in tier:
                if seed < 3 or name in FIVE_SEEDS:
                    study.train(name, seed)
    if time.monotonic() > study.end:
        print("The time is over. The same command goes on.")
    else:
        print(f"{study.file} has all of these runs. Delete it, or lines of it, to train them again.")


class Study:
    """The runs of one study and their results.

    Args:
        name: a key of `STUDIES`.
        match: ``macs``: the width is changed so that all have softmax's MACs; ``shape``: all have its width.
        folder: where the sweeps are.
        overrides: of all runs.
        end: on the monotonic clock; no sweep starts after it.
    """

    def __init__(self, name: str, match: str, folder: Path, overrides: list[str], end: float) -> None:
        self.name, self.match, self.folder, self.end = name, match, folder / name / match, end
        self.overrides = [*STUDIES[name], *(["model.match=macs"] if match == "macs" else []), *overrides]
        rates_of = RATES_OF.get(name, name)
        self.file, self.search_file = (RESULTS / f"{study}.csv" for study in (name, rates_of))
        with initialize_config_dir(str(conf_dir()), version_base="1.3"):
            config = compose("train", overrides=self.overrides)
            usual = compose("train", overrides=STUDIES[rates_of]).trainer.max_epochs
        self.epochs, self.width = config.trainer.max_epochs, config.model.embed_dim
        self.searches = match == "macs" and name == rates_of  # once for both axes
        self.search_epochs = usual // SEARCH_SHARE[rates_of]  # also where the runs are longer

    def search(self, name: str) -> None:
        """Train at `RATES` and on the better one's far side, for a share of the epochs."""
        if not self.searches:
            return
        self.try_rates(name, *RATES)
        low, high = RATES
        best = self.best_rate(name)
        if best is not None and best in RATES:
            self.try_rates(name, low / 2 if best == low else high * 2)

    def try_rates(self, name: str, *rates: float) -> None:
        """Those of these learning rates that have not been tried."""
        missing = [f"{rate:g}" for rate in rates if not self.lines(name, SEARCH_SEED, rate)]
        if missing:
            swept = (f"optimizer.lr={','.join(missing)}", f"seed={SEARCH_SEED}")
            self.sweep(name, f"search_{'_'.join(missing)}", *swept, epochs=self.search_epochs)

    def best_rate(self, name: str) -> float | None:
        """The learning rate with the highest accuracy so far; the lower one of equals. None: not searched yet."""
        found = {float(line["lr"]): float(line["acc1"]) for line in self.lines(name, SEARCH_SEED)}
        return max(sorted(found), key=found.__getitem__) if found.keys() >= set(RATES) else None

    def train(self, name: str, seed: int) -> None:
        """Train with all epochs at the best rate of the search."""
        best = self.best_rate(name)
        if best is not None and not self.lines(name, seed):
            self.sweep(
                name, f"{self.epochs}_epochs_{seed}", f"optimizer.lr={best:g}", f"seed={seed}", epochs=self.epochs
            )

    def lines(self, name: str, seed: int, rate: float | None = None) -> list[dict[str, str]]:
        """The finished runs of a contender with this seed, these epochs (but in the search), and this learning rate."""
        results = self.search_file if seed == SEARCH_SEED else self.file
        if not results.is_file():
            return []
        with results.open(encoding="utf-8", newline="") as file:
            return [
                line
                for line in csv.DictReader(file)
                if (line["contender"], int(line["seed"])) == (name, seed)
                and (seed == SEARCH_SEED or int(line["epochs"]) == self.epochs)
                and rate in (None, float(line["lr"]))
                and self.counts(line)
            ]

    def counts(self, line: dict[str, str]) -> bool:
        """Runs with equal MACs also count for equal shape, if matching left the width as it was, and as searches."""
        searched, unchanged = int(line["seed"]) == SEARCH_SEED, int(line["width"]) == self.width
        return line["match"] == self.match or (self.match == "shape" and (searched or unchanged))

    def sweep(self, name: str, stage: str, *swept: str, epochs: int) -> None:
        """Run a sweep to its end, and keep the results of its finished jobs."""
        if time.monotonic() > self.end:
            return
        folder = self.folder / name.replace(" ", "_").replace(",", "") / stage
        kept = [override for override in self.overrides if not override.startswith("trainer.max_epochs=")]
        command = [sys.executable, "-m", "fvit.train", "-m", *kept, *swept]
        command += chosen(self.name, name)
        command += [f"trainer.max_epochs={epochs}", f"hydra.sweep.dir={folder}", "quiet=true"]
        print(f"{time.strftime('%H:%M:%S')} {name}: {' '.join(swept)}, {epochs} epochs", flush=True)
        folder.mkdir(parents=True, exist_ok=True)
        with (folder / "output.txt").open("a+", encoding="utf-8") as output:
            earlier = output.tell()
            code = subprocess.run(command, stdout=output, stderr=subprocess.STDOUT, check=False).returncode
            output.seek(earlier)
            *_, last = output.read().splitlines() or ["it printed nothing"]
        if code:
            sys.exit(f"{name} failed with exit code {code}: {last.strip()} ({output.name} has its whole output)")
        self.keep([self.line(name, run.parent) for run in sorted(folder.glob("*/metrics.json"))])

    def line(self, name: str, run: Path) -> dict[str, Any]:
        """The result of a run."""
        config = OmegaConf.load(run / "config.yaml")
        record = json.loads((run / "metrics.json").read_text(encoding="utf-8"))
        with (run / "csv" / "metrics.csv").open(encoding="utf-8", newline="") as file:
            curve = [f"{float(row['val/acc1']):.4f}" for row in csv.DictReader(file) if row["val/acc1"]]
        metrics = record["metrics"]
        return {
            "contender": name,
            "match": self.match,
            "seed": config.seed,
            "lr": f"{config.optimizer.lr:g}",
            "epochs": config.trainer.max_epochs,
            "width": config.model.embed_dim,
            "acc1": f"{metrics['val/acc1']:.4f}",
            "acc1_by_epoch": " ".join(curve),
            "loss": f"{metrics['val/loss']:.5f}",
            "params": int(metrics["cost/params"]),
            "macs": int(metrics["cost/macs"]),
            "images_per_s": f"{metrics['throughput/images_per_s']:.0f}",
            "seconds": f"{record['seconds']:.0f}",
        }

    def keep(self, lines: list[dict[str, Any]]) -> None:
        """Append the results of a sweep."""
        new = not self.file.is_file()
        self.file.parent.mkdir(parents=True, exist_ok=True)
        with self.file.open("a", encoding="utf-8", newline="") as file:
            writer = csv.DictWriter(file, list(lines[0]), lineterminator="\n")
            if new:
                writer.writeheader()
            writer.writerows(lines)


if __name__ == "__main__":
    main()
