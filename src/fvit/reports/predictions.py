"""Predictions of images, written to a file and summarised in the terminal."""

import csv
import io
import itertools
import json
import operator
from array import array
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import BinaryIO, NamedTuple

from fvit.launch.console import console, print_facts, print_rows

MAX_ROWS = 20
"""Images that are printed one by one; more are summarised."""

_LISTED = 10  # most frequent classes, and images that could not be read


class Prediction(NamedTuple):
    """The prediction for one image.

    Attributes:
        file: path of the image.
        top: the most probable classes with their probabilities, in descending order; empty if the image could not be
            read.
        error: why the image could not be read, or ``""``.
        label: the class after which the image's folder is named, or ``""``.
    """

    file: str
    top: Sequence[tuple[str, float]]
    error: str = ""
    label: str = ""


class Tally:
    """Counts predictions, and keeps those that are printed.

    Args:
        names: of the classes.

    Attributes:
        labels, predictions, confidences: of the images in folders named after classes, in the order of `add`; classes
            by their place in `names`.
    """

    def __init__(self, names: Sequence[str]) -> None:
        self._places = {name: place for place, name in enumerate(names)}
        self.labels, self.predictions, self.confidences = array("i"), array("i"), array("f")
        self.first: list[Prediction] = []
        self.failed: list[Prediction] = []
        self.classes: Counter[str] = Counter()
        self.confidence = 0.0
        self._unnamed: Counter[str] = Counter()  # images by folder, for folders not named after a class

    @property
    def predicted(self) -> int:
        """The number of images that could be read."""
        return self.classes.total()

    def add(self, prediction: Prediction) -> None:
        if prediction.error:
            self.failed.append(prediction)
            return
        name, probability = prediction.top[0]
        self.classes[name] += 1
        self.confidence += probability
        if prediction.label:
            self.labels.append(self._places[prediction.label])
            self.predictions.append(self._places[name])
            self.confidences.append(probability)
        else:
            self._unnamed[Path(prediction.file).parent.name] += 1
        if len(self.first) < MAX_ROWS:
            self.first.append(prediction)

    def print(self, seconds: float, facts: Sequence[tuple[str, str]]) -> None:
        """Print one row per image, or a summary of many, the images that could not be read, and `facts`."""
        if self.predicted > MAX_ROWS:
            self._print_summary()
        elif self.predicted:
            head = ["image", *(f"{rank}." for rank in range(1, len(self.first[0].top) + 1))]
            rows = [(one.file, *(f"{name}  {100 * p:.1f} %" for name, p in one.top)) for one in self.first]
            print_rows("Predictions", head, rows)
        for one in self.failed[:_LISTED]:
            console.print(f"skipped {one.file}: {one.error}", markup=False, soft_wrap=True)
        if len(self.failed) > _LISTED:
            console.print(f"… and {len(self.failed) - _LISTED:,} more")
        speed = f"{self.predicted:,} in {seconds:.1f} s, {self.predicted / seconds:,.0f} images/s"
        if total := len(self.labels):
            right = sum(map(operator.eq, self.labels, self.predictions))
            accuracy = f"{100 * right / total:.2f} % of {total:,} images in folders named after classes"
            facts = [("accuracy", accuracy), *facts]
            if other := self._unnamed:
                folders = ", ".join(sorted(other)[:_LISTED]) + ", …" * (len(other) > _LISTED)
                facts.append(("left out of it", f"{other.total():,} in folders not named after a class: {folders}"))
        print_facts("", [("images", f"{speed}; {len(self.failed):,} skipped"), *facts])

    def _print_summary(self) -> None:
        frequent = self.classes.most_common(_LISTED)
        if (others := self.predicted - sum(count for _, count in frequent)) > 0:
            frequent.append((f"{len(self.classes) - _LISTED:,} others", others))
        rows = [(name, f"{count:,}", f"{100 * count / self.predicted:.1f} %") for name, count in frequent]
        print_rows("Predicted classes", ("class", "images", "share"), rows)
        console.print(f"mean probability of the predicted class: {100 * self.confidence / self.predicted:.1f} %")


@contextmanager
def writing(file: BinaryIO, suffix: str, ranks: int) -> Iterator[Callable[[Prediction], None]]:
    """Write predictions one by one, in UTF-8.

    Args:
        file: an open binary file.
        suffix: ``.csv``, one row per image; ``.json``, a list of objects; ``.jsonl``, one object per line.
        ranks: classes per image, for the columns of a CSV file.

    Yields:
        A function that writes one prediction.
    """
    # File names that are not valid UTF-8 are escaped, as JSON readers expect.
    text = io.TextIOWrapper(file, encoding="utf-8", errors="backslashreplace", newline="")
    if suffix == ".csv":
        columns = [column for rank in range(1, ranks + 1) for column in (f"class{rank}", f"probability{rank}")]
        table = csv.writer(text, lineterminator="\n")
        table.writerow(["file", *columns, "error", "label"])

        def write(one: Prediction) -> None:
            cells = [cell for name, p in one.top for cell in (name, f"{p:.6g}")] or [""] * len(columns)
            table.writerow([one.file, *cells, one.error, one.label])

        yield write
    else:
        start, separator, end = ("[\n", ",\n", "\n]\n") if suffix == ".json" else ("", "\n", "\n")
        before = itertools.chain([start], itertools.repeat(separator))
        yield lambda one: print(next(before), _json(one), sep="", end="", file=text)
        text.write(end)
    text.flush()
    text.detach()  # whoever opened the file closes it


def _json(one: Prediction) -> str:
    top = [{"class": name, "probability": float(f"{p:.6g}")} for name, p in one.top]
    label = {"label": one.label} if one.label else {}
    found = {"error": one.error} if one.error else {"top": top}
    return json.dumps({"file": one.file} | label | found, ensure_ascii=False)
