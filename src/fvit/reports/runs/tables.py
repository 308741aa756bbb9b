"""The leaderboard and the list of runs: columns whose cells are text for people and a value to sort by."""

import datetime
import html
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from typing import Any

from fvit.reports.runs.flat import show
from fvit.reports.runs.gather import Run
from fvit.reports.runs.groups import ACCURACY, Group, short_names
from fvit.reports.runs.statistics import Estimate

DASH = "–"


@dataclass(frozen=True)
class Cell:
    """Text, and what it is sorted by: None stands last, whichever way."""

    text: str
    value: float | str | None = None


@dataclass(frozen=True)
class Table:
    """Cells under their heads; the columns in `texts` are text, the others figures."""

    head: list[str]
    rows: list[list[Cell]]
    texts: frozenset[int]


def leaderboard(groups: Sequence[Group], baseline: str) -> Table:
    """A line a row, as they are ranked. Columns in which nobody has anything are left out."""
    settings = list(dict.fromkeys(key for one in groups for key in one.settings))
    short = short_names(settings)
    costs = [one.estimate("cost/macs") for one in groups]
    scale, letter = (1e-9, "G") if max((c.mean for c in costs if c), default=0) >= 1e9 else (1e-6, "M")
    columns: list[tuple[str, Callable[[Group], Cell]]] = [
        ("attention", lambda one: _text(one.attention)),
        *((short[key], lambda one, key=key: setting(one.settings.get(key))) for key in settings),
        ("seeds", _seeds),
        ("accuracy, %", lambda one: measured(one.estimate(ACCURACY), 100)),
        (f"vs {baseline}, points", lambda one: measured(one.difference(), 100, sign="+", counted=True)),
        ("best epoch, %", lambda one: measured(one.estimate(f"best/{ACCURACY}"), 100)),
        ("params, M", lambda one: _mean(one, "cost/params", 1e-6, ".3g")),
        (f"MACs, {letter}", lambda one: _mean(one, "cost/macs", scale, ".4g")),
        ("images/s", lambda one: _mean(one, "throughput/images_per_s", 1, ",.0f")),
        ("memory, GiB", lambda one: _mean(one, "memory/peak_gib", 1, ".2f")),
        ("time", _time),
    ]
    rows = [[make(one) for _, make in columns] for one in groups]
    first = len(settings) + 1
    used = [i for i in range(len(columns)) if i <= first or any(row[i].text != DASH for row in rows)]
    return Table(
        [columns[i][0] for i in used], [[row[i] for i in used] for row in rows], frozenset(range(len(settings) + 1))
    )


def run_table(runs: Sequence[Run], groups: Sequence[Group]) -> Table:
    """A line a run."""
    rows = {run.folder: one.label for one in groups for run in one.runs}
    head = ["run", "row", "status", "seed", "accuracy, %", "time", "last written"]
    lines = []
    for run in runs:
        accuracy = run.metrics.get(ACCURACY)
        lines.append(
            [
                _text(run.name),
                _text(rows.get(run.folder, DASH)),
                _text(run.status),
                Cell(DASH if run.seed is None else str(run.seed), run.seed),
                Cell(DASH if accuracy is None else f"{100 * accuracy:.2f}", accuracy),
                Cell(duration(run.seconds) if run.seconds else DASH, run.seconds or None),
                Cell(when(run.touched), run.touched),
            ]
        )
    return Table(head, lines, frozenset({0, 1, 2}))


def measured(found: Estimate | None, factor: float, sign: str = "", counted: bool = False) -> Cell:
    """Mean ± half of the 95 % interval, where there is one; `counted`: with the number of values."""
    if found is None:
        return Cell(DASH)
    half = "" if found.half is None else f" ± {found.half * factor:.2f}"
    number = f" ({found.n})" if counted else ""
    return Cell(f"{found.mean * factor:{sign}.2f}{half}{number}".replace("-", "−"), found.mean)


def setting(value: Any) -> Cell:
    """Numbers are sorted as numbers."""
    if value is None:
        return Cell(DASH)
    is_number = isinstance(value, int | float) and not isinstance(value, bool)
    return Cell(show(value), value if is_number else show(value))


def duration(seconds: float) -> str:
    """In the two units that count."""
    minutes, rest = divmod(round(seconds), 60)
    hours, minutes = divmod(minutes, 60)
    days, hours = divmod(hours, 24)
    if days:
        return f"{days} d {hours} h"
    if hours:
        return f"{hours} h {minutes:02d} min"
    return f"{minutes} min {rest:02d} s" if minutes else f"{seconds:.0f} s"


def when(moment: float) -> str:
    """Local date and time."""
    return datetime.datetime.fromtimestamp(moment).strftime("%Y-%m-%d %H:%M")


def to_html(table: Table, name: str, lead: Callable[[int], str] | None = None) -> str:
    """An HTML table whose columns can be sorted; `lead` gives further cells that stand before the others of a line."""
    before = "" if lead is None else '<th class="text"></th>'
    heads = "".join(
        f'<th{_class(i, table)} aria-sort="none"><button type="button">{html.escape(head)}</button></th>'
        for i, head in enumerate(table.head)
    )
    lines = [
        f'<tr data-row="{number}">{lead(number) if lead else ""}{"".join(_cells(row, table))}</tr>'
        for number, row in enumerate(table.rows)
    ]
    body = "\n".join(lines)
    return (
        f'<div class="wide tall"><table class="sortable" id="{name}">\n<thead><tr>{before}{heads}</tr></thead>\n'
        f"<tbody>\n{body}\n</tbody>\n</table></div>"
    )


def to_markdown(table: Table) -> str:
    """A table of GitHub's Markdown."""
    rule = ["---" if i in table.texts else "---:" for i in range(len(table.head))]
    lines = [table.head, rule, *([cell.text for cell in row] for row in table.rows)]
    return "\n".join(f"| {' | '.join(cell.replace('|', chr(92) + '|') for cell in line)} |" for line in lines)


def _cells(row: Iterable[Cell], table: Table) -> Iterable[str]:
    for i, cell in enumerate(row):
        value = "" if cell.value is None else html.escape(str(cell.value))
        mean, plus, half = html.escape(cell.text).partition(" ± ")
        half = f'<span class="half">{plus}{half}</span>' if plus else ""
        yield f'<td{_class(i, table)} data-v="{value}">{mean}{half}</td>'


def _class(index: int, table: Table) -> str:
    return ' class="text"' if index in table.texts else ""


def _text(text: str) -> Cell:
    return Cell(text, text)


def _seeds(one: Group) -> Cell:
    """How many count; of how many, where some do not."""
    counted, all_of_them = len(one.counted), len({run.seed for run in one.runs})
    return Cell(str(counted) if counted == all_of_them else f"{counted} of {all_of_them}", counted)


def _mean(one: Group, metric: str, factor: float, form: str) -> Cell:
    found = one.estimate(metric)
    return Cell(DASH) if found is None else Cell(f"{found.mean * factor:{form}}", found.mean)


def _time(one: Group) -> Cell:
    seconds = [run.seconds for run in one.counted.values()]
    return Cell(DASH) if not seconds else Cell(duration(sum(seconds) / len(seconds)), sum(seconds) / len(seconds))
