"""How fast the models of the study train, relative to softmax: docs/study/speed.csv.

    python benchmarks/study_speed.py cifar10 data.root=DIR
    python benchmarks/study_speed.py lookup                 pointer has the same models

Times forward pass, backward pass and the step of AdamW on images of noise, in one process on one thread, the models in
turns. A ratio is the median of the rounds', with their quartiles. Models that have the same MACs as softmax are
measured, and those of the same width.
"""

import argparse
import csv
import statistics
from collections.abc import Sequence
from typing import Any

import torch
from hydra import compose, initialize_config_dir
from study import CONTENDERS, RESULTS, STUDIES, chosen, explained

from fvit.config import validation
from fvit.config.paths import conf_dir
from fvit.config.schemas.train import Train
from fvit.cost.match import make, meet_budget
from fvit.cost.timing import Step, time_in_turns
from fvit.cost.workload import Conditions, Workload
from fvit.train import build_data, plan_batches

BASELINE = "softmax"
AXES = {"macs": ["model.match=macs"], "shape": []}


@explained()
def main() -> None:
    """Measure, print and save."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("study", choices=STUDIES)
    parser.add_argument("--rounds", type=int, default=21)
    options, overrides = parser.parse_known_args()
    torch.set_num_threads(1)
    measured = []
    for match, axis in AXES.items():
        measured += speeds(options.study, match, [*axis, *overrides], options.rounds)
    save(options.study, measured)


def speeds(study: str, match: str, overrides: Sequence[str], rounds: int) -> list[dict[str, str]]:
    """A line for each contender of a study."""
    configs = {name: composed(study, name, overrides) for name in CONTENDERS}
    batch = configs[BASELINE]["global_batch_size"]
    classes = build_data(configs[BASELINE], plan_batches(batch, 1)).num_classes
    timings = time_in_turns({name: step(config, classes) for name, config in configs.items()}, rounds)
    lines = []
    for name, timing in timings.items():
        pairs = zip(timings[BASELINE].seconds, timing.seconds, strict=True)
        low, speed, high = (f"{ratio:.3f}" for ratio in statistics.quantiles([a / b for a, b in pairs], n=4))
        rate = f"{batch / timing.median:.0f}"
        print(f"{study}, same {match}: {name} {speed} ({low} to {high}), {rate} images/s", flush=True)
        lines.append(dict(study=study, match=match, contender=name, speed=speed, low=low, high=high, images_per_s=rate))
    return lines


def composed(study: str, contender: str, overrides: Sequence[str]) -> dict[str, Any]:
    """The configuration of a contender."""
    fixed = ["output_dir=none", "title=none"]
    with initialize_config_dir(str(conf_dir()), version_base="1.3"):
        given = [*STUDIES[study], *chosen(study, contender), *overrides, *fixed]
        return validation.check(compose("train", given), Train)


def step(config: dict[str, Any], classes: int) -> Step:
    """A training step of the model whose width meets the budget, if there is one."""
    size = config["data"]["img_size"]
    model = make(meet_budget(config, classes)[0]["model"], size, classes)
    return Workload(model, Conditions(size)).train(config["global_batch_size"])


def save(study: str, measured: list[dict[str, str]]) -> None:
    """Replace the lines of this study."""
    file = RESULTS / "speed.csv"
    if file.is_file():
        with file.open(encoding="utf-8", newline="") as before:
            measured = [line for line in csv.DictReader(before) if line["study"] != study] + measured
    with file.open("w", encoding="utf-8", newline="") as out:
        writer = csv.DictWriter(out, list(measured[0]), lineterminator="\n")
        writer.writeheader()
        writer.writerows(measured)


if __name__ == "__main__":
    main()
