"""Tables as HTML, Markdown and CSV."""

import csv
import html
import io
import math
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from typing import Any

NO_VALUE = "–"


class Cell(str):
    """Text with a value to sort by; None is last in either direction."""

    value: float | str | None

    def __new__(cls, text: str, value: float | str | None = None) -> "Cell":
        cell = super().__new__(cls, text)
        cell.value = value
        return cell


@dataclass(frozen=True)
class Table:
    """Rows of text under a head. Columns in `words` are aligned left, the others hold numbers."""

    head: list[str]
    rows: list[list[str]]
    words: frozenset[int] = frozenset({0})
    title: str = ""
    note: str = ""

    def to_markdown(self) -> str:
        """The table alone, in GitHub's Markdown."""
        rule = ["---" if i in self.words else "---:" for i in range(len(self.head))]
        escaped = [[cell.replace("|", r"\|") for cell in line] for line in (self.head, *self.rows)]
        return "\n".join(f"| {' | '.join(line)} |" for line in (escaped[0], rule, *escaped[1:]))

    def to_html(
        self, name: str = "", buttons: Callable[[int], str] | None = None, numbers: Sequence[int] | None = None
    ) -> str:
        """The table alone.

        Args:
            name: id of the element. A table that has one consists of `Cell` and can be sorted and filtered.
            buttons: HTML of a first cell for the row with this number.
            numbers: of the rows; by default they are counted.
        """
        head = "".join(self._th(i, heading, bool(name)) for i, heading in enumerate(self.head))
        first = '<th class="text"></th>' if buttons else ""
        rows = [
            f'<tr data-row="{number}">{buttons(number) if buttons else ""}'
            + "".join(self._td(i, cell) for i, cell in enumerate(row))
            + "</tr>"
            for number, row in zip(numbers or range(len(self.rows)), self.rows, strict=True)
        ]
        attributes = f' class="sortable" id="{name}"' if name else ""
        body = "\n".join(rows)
        return f"<table{attributes}>\n<thead><tr>{first}{head}</tr></thead>\n<tbody>\n{body}\n</tbody>\n</table>"

    def _th(self, column: int, heading: str, sortable: bool) -> str:
        text = html.escape(heading)
        if not sortable:
            return f"<th{self._class(column)}>{text}</th>"
        return f'<th{self._class(column)} aria-sort="none"><button type="button">{text}</button></th>'

    def _td(self, column: int, cell: str) -> str:
        value = getattr(cell, "value", None)
        data = "" if value is None else f' data-v="{html.escape(str(value))}"'
        mean, plus_minus, half_width = html.escape(cell).partition(" ± ")
        interval = f'<span class="half">{plus_minus}{half_width}</span>' if plus_minus else ""
        return f"<td{self._class(column)}{data}>{mean}{interval}</td>"

    def _class(self, column: int) -> str:
        return ' class="text"' if column in self.words else ""


def three_digits(value: float) -> str:
    """At least three significant digits: all that precede the decimal point are shown."""
    places = 2 - math.floor(math.log10(abs(value))) if value else 0
    return f"{value:,.{max(0, places)}f}"


def to_csv(records: Iterable[dict[str, Any]]) -> str:
    """A line per record under the keys of all of them; what a record lacks or has as None is empty."""
    records = list(records)
    text = io.StringIO()
    writer = csv.DictWriter(text, list(dict.fromkeys(key for one in records for key in one)), lineterminator="\n")
    writer.writeheader()
    writer.writerows(records)
    return text.getvalue()
