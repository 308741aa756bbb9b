"""The runs of the study: lines of docs/study/*.csv."""

import csv
import statistics
from collections import defaultdict
from collections.abc import Sequence
from pathlib import Path

BASELINE = "softmax"
SEARCH_SEED = "1000"
RELATIONS = ("lookup", "pointer")
"""Learned suddenly or not at all: accuracies are not normally distributed, and those of all seeds are listed."""
TASKS = {"cifar10": "CIFAR-10", "lookup": "Lookup (chance 25 %)", "pointer": "Pointer (chance 25 %)"}
"""Those with pictures."""

Line = dict[str, str]


def read(results: Path) -> list[Line]:
    """The runs of a study, none if there is no file."""
    if not results.is_file():
        return []
    with results.open(encoding="utf-8", newline="") as file:
        return list(csv.DictReader(file))


def by_contender(lines: Sequence[Line], match: str) -> dict[str, list[Line]]:
    """The runs at the same MACs, or with the same shape, among them those that matching left as they were."""
    width = next((line["width"] for line in lines if line["contender"] == BASELINE), None)
    found = defaultdict(list)
    for line in lines:
        counts = line["match"] == match or (match == "shape" and line["width"] == width)
        if counts and line["seed"] != SEARCH_SEED:
            found[line["contender"]].append(line)
    # One table does not mix the axes: without runs of its own, "shape" has none.
    return dict(found) if any(line["match"] == match for line in lines) else {}


def searches(lines: Sequence[Line]) -> dict[str, list[Line]]:
    """The runs that searched for learning rates."""
    found = defaultdict(list)
    for line in lines:
        if line["seed"] == SEARCH_SEED:
            found[line["contender"]].append(line)
    return dict(found)


def ranked(contenders: dict[str, list[Line]]) -> list[tuple[str, list[Line]]]:
    """The best first."""
    return sorted(contenders.items(), key=lambda item: -statistics.mean(accuracies(item[1])))


def accuracies(lines: Sequence[Line]) -> list[float]:
    """In percent."""
    return [100 * float(line["acc1"]) for line in lines]


def curves(lines: Sequence[Line]) -> list[list[float]]:
    """Of each run, the accuracy after each epoch, in percent."""
    return [[100 * float(value) for value in line["acc1_by_epoch"].split()] for line in lines]


def differences(lines: Sequence[Line], others: Sequence[Line]) -> list[float]:
    """In points, paired by seed: the same images in the same order, evaluated on the same test images."""
    theirs = {line["seed"]: float(line["acc1"]) for line in others}
    return [100 * (float(line["acc1"]) - theirs[line["seed"]]) for line in lines if line["seed"] in theirs]
