"""What a model says of images, in files and for people."""

import csv
import io
import json
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from typing import BinaryIO, NamedTuple

from fvit.launch.console import console, print_facts, print_rows

FEW = 20
"""Images of which each gets a row."""

_SHOWN = 10  # of the commonest classes, and of the images that could not be read


class Prediction(NamedTuple):
    """Of one image.

    Attributes:
        file: where it lies.
        top: names of the most probable classes with their probabilities, the highest first; empty if the image could
            not be read.
        error: why it could not be read; "" if it could.
    """

    file: str
    top: Sequence[tuple[str, float]]
    error: str = ""


class Tally:
    """Counts predictions, and keeps of them what is printed."""

    def __init__(self) -> None:
        self.first: list[Prediction] = []
        self.failed: list[Prediction] = []
        self.classes: Counter[str] = Counter()
        self.confidence = 0.0

    @property
    def answered(self) -> int:
        """Images that could be read."""
        return self.classes.total()

    def note(self, prediction: Prediction) -> None:
        """Count one more."""
        if prediction.error:
            self.failed.append(prediction)
            return
        name, probability = prediction.top[0]
        self.classes[name] += 1
        self.confidence += probability
        if len(self.first) < FEW:
            self.first.append(prediction)

    def show(self, seconds: float, places: Sequence[tuple[str, str]]) -> None:
        """Print a row an image, or a summary of many, what could not be read, and `places` to look at."""
        if self.answered > FEW:
            self._print_summary()
        elif self.answered:
            head = ["image", *(f"{rank}." for rank in range(1, len(self.first[0].top) + 1))]
            rows = [(one.file, *(f"{name}  {100 * p:.1f} %" for name, p in one.top)) for one in self.first]
            print_rows("Predictions", head, rows)
        for one in self.failed[:_SHOWN]:
            console.print(f"skipped {one.file}: {one.error}", markup=False, soft_wrap=True)
        if len(self.failed) > _SHOWN:
            console.print(f"… and {len(self.failed) - _SHOWN:,} more")
        count = f"{self.answered:,} in {seconds:.1f} s, {self.answered / seconds:,.0f} a second"
        print_facts("", [("images", f"{count}; {len(self.failed):,} skipped"), *places])

    def _print_summary(self) -> None:
        common = self.classes.most_common(_SHOWN)
        rows = [(name, f"{count:,}", f"{100 * count / self.answered:.1f} %") for name, count in common]
        if (others := self.answered - sum(count for _, count in common)) > 0:
            rows.append(
                (f"{len(self.classes) - _SHOWN:,} others", f"{others:,}", f"{100 * others / self.answered:.1f} %")
            )
        print_rows("Most probable classes", ("class", "images", "share"), rows)
        console.print(f"mean probability of an image's first class: {100 * self.confidence / self.answered:.1f} %")


@contextmanager
def writing(file: BinaryIO, form: str, ranks: int) -> Iterator[Callable[[Prediction], None]]:
    """Write predictions one by one, none of them kept.

    Args:
        file: takes the text, in UTF-8.
        form: ``.csv``, a row an image; ``.json``, a list of objects; ``.jsonl``, an object a line.
        ranks: classes an image, for the columns of a table.

    Yields:
        To be called with each.
    """
    # A file's name may be no UTF-8; escaped, JSON's readers give it back.
    text = io.TextIOWrapper(file, encoding="utf-8", errors="backslashreplace", newline="")
    if form == ".csv":
        columns = [column for rank in range(1, ranks + 1) for column in (f"class{rank}", f"probability{rank}")]
        table = csv.writer(text, lineterminator="\n")
        table.writerow(["file", *columns, "error"])

        def write(one: Prediction) -> None:
            cells = [cell for name, p in one.top for cell in (name, f"{p:.6g}")] or [""] * len(columns)
            table.writerow([one.file, *cells, one.error])

        yield write
    elif form == ".jsonl":
        yield lambda one: print(_json(one), file=text)
    else:
        separator = "[\n"

        def write(one: Prediction) -> None:
            nonlocal separator
            text.write(separator + _json(one))
            separator = ",\n"

        yield write
        text.write("\n]\n" if separator == ",\n" else "[]\n")
    text.flush()
    text.detach()  # the file is its owner's to close


def _json(one: Prediction) -> str:
    top = [{"class": name, "probability": float(f"{p:.6g}")} for name, p in one.top]
    content = {"file": one.file, "error": one.error} if one.error else {"file": one.file, "top": top}
    return json.dumps(content, ensure_ascii=False)
