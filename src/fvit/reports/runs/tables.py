"""The leaderboard and the list of runs."""

import datetime
from collections.abc import Callable, Sequence
from typing import Any

from fvit.reports.runs.collect import Run, as_text
from fvit.reports.runs.groups import ACCURACY, Group, MeanCI, short_names
from fvit.reports.runs.plots import are_numbers
from fvit.reports.web.tables import NO_VALUE, Cell, Table, three_digits

NOTE = (
    "Accuracy: last epoch on the validation set, mean ± half-width of Student's 95 % confidence interval over the "
    "finished seeds; one seed has no interval. Difference: paired by seed, to the row that differs only in its "
    "attention; the number of pairs in parentheses. Best epoch: chosen on the set it is measured on, hence optimistic."
)


def leaderboard(groups: Sequence[Group], baseline: str) -> Table:
    """A row per group, in the order given; without the columns that are empty."""
    settings = list(dict.fromkeys(key for group in groups for key in group.settings))
    short = short_names(settings)
    macs = [cost.mean for group in groups if (cost := group.mean("cost/macs"))]
    scale, letter = (1e-9, "G") if max(macs, default=0) >= 1e9 else (1e-6, "M")

    def mean(metric: str, show: Callable[[float], str], factor: float = 1.0) -> Callable[[Group], Cell]:
        def cell(group: Group) -> Cell:
            found = group.mean(metric)
            return Cell(show(found.mean * factor), found.mean) if found else Cell(NO_VALUE)

        return cell

    columns: list[tuple[str, Callable[[Group], Cell]]] = [
        ("attention", lambda group: Cell(group.attention, group.attention)),
        *((short[key], lambda group, key=key: _setting(group.settings.get(key))) for key in settings),
        ("seeds", _seeds),
        ("accuracy, %", lambda group: percent(group.mean(ACCURACY))),
        (f"vs {baseline}, points", lambda group: percent(group.difference(), is_difference=True)),
        ("best epoch, %", lambda group: percent(group.mean(f"best/{ACCURACY}"))),
        ("params, M", mean("cost/params", three_digits, 1e-6)),
        (f"MACs, {letter}", mean("cost/macs", three_digits, scale)),
        ("images/s", mean("throughput/images_per_s", "{:,.0f}".format)),
        ("memory, GiB", mean("memory/peak_gib", "{:.2f}".format)),
        ("time", _time),
    ]
    rows = [[make(group) for _, make in columns] for group in groups]
    always = len(settings) + 2
    filled = [i for i in range(len(columns)) if i < always or any(row[i] != NO_VALUE for row in rows)]
    words = frozenset(range(len(settings) + 1))
    return Table([columns[i][0] for i in filled], [[row[i] for i in filled] for row in rows], words)


def run_table(runs: Sequence[Run], groups: Sequence[Group]) -> Table:
    """A row per run."""
    labels = {run.folder: group.label for group in groups for run in group.runs}
    rows = []
    for run in runs:
        words = [run.name, labels.get(run.folder, NO_VALUE), run.status]
        accuracy = run.metrics.get(ACCURACY)
        rows.append(
            [
                *(Cell(word, word) for word in words),
                Cell(NO_VALUE if run.seed is None else str(run.seed), run.seed),
                Cell(NO_VALUE if accuracy is None else f"{100 * accuracy:.2f}", accuracy),
                Cell(duration(run.seconds), run.seconds) if run.seconds else Cell(NO_VALUE),
                Cell(when(run.last_written), run.last_written),
            ]
        )
    head = ["run", "leaderboard row", "status", "seed", "accuracy, %", "time", "last written"]
    return Table(head, rows, frozenset({0, 1, 2}))


def percent(found: MeanCI | None, is_difference: bool = False) -> Cell:
    """``93.00 ± 6.57``; a difference has a sign and the number of pairs."""
    if found is None:
        return Cell(NO_VALUE)
    mean = f"{100 * found.mean:{'+' if is_difference else ''}.2f}".replace("-", "−")
    half_width = "" if found.half_width is None else f" ± {100 * found.half_width:.2f}"
    return Cell(mean + half_width + f" ({found.n})" * is_difference, found.mean)


def duration(seconds: float) -> str:
    """In its two largest units."""
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


def _setting(value: Any) -> Cell:
    if value is None:
        return Cell(NO_VALUE)
    return Cell(as_text(value), value if are_numbers([value]) else as_text(value))


def _seeds(group: Group) -> Cell:
    """``2 of 3`` if one did not finish."""
    finished, started = len(group.finished), len({run.seed for run in group.runs})
    return Cell(str(finished) if finished == started else f"{finished} of {started}", finished)


def _time(group: Group) -> Cell:
    seconds = [run.seconds for run in group.finished.values()]
    mean = sum(seconds) / len(seconds) if seconds else None
    return Cell(NO_VALUE) if mean is None else Cell(duration(mean), mean)
