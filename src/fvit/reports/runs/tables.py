"""The leaderboard and the list of runs."""

import datetime
from collections.abc import Callable, Sequence
from dataclasses import dataclass

from fvit.reports.runs.collect import Run
from fvit.reports.runs.groups import ACCURACY, TEST, Group, MeanCI, Ranking
from fvit.reports.runs.settings import setting_text
from fvit.reports.web.tables import NO_VALUE, Cell, Table, three_digits


@dataclass(frozen=True)
class Metric:
    """What a leaderboard ranks by.

    Attributes:
        key: in metrics.json.
        title: of its leaderboard.
        heading: of its column, with the unit.
        factor: converts to that unit.
        less_is_better: for a loss.
    """

    key: str
    title: str
    heading: str
    factor: float = 100.0
    less_is_better: bool = False


METRICS = (
    Metric(ACCURACY, "Accuracy", "accuracy, %"),
    Metric(f"best/{ACCURACY}", "Best-epoch accuracy", "best epoch, %"),
    Metric("val/acc5", "Top-5 accuracy", "top-5, %"),
    Metric("val/loss", "Loss", "loss", 1.0, less_is_better=True),
)
"""The first is what a report ranks by unless another is chosen."""

NOTE = (
    "Last epoch on the validation set, mean ± half-width of Student's 95 % confidence interval over the finished "
    "seeds; one seed has no interval. Difference: paired by seed, to the row that differs only in its attention; the "
    "number of pairs in parentheses. The best epoch is chosen on the set it is measured on, hence optimistic."
)
TEST_NOTE = (
    "Test: images that chose nothing, evaluated once after training, with the weights of the best epoch on the "
    "validation set; no leaderboard is ranked by it."
)


def notes(rankings: Sequence[Ranking]) -> list[str]:
    """What the columns of the leaderboards mean."""
    tested = any(group.mean(TEST) for ranking in rankings for group in ranking.groups)
    return [NOTE, TEST_NOTE] if tested else [NOTE]


def metrics_of(ranking: Ranking) -> list[Metric]:
    """Those that some run of the ranking has; the first in any case."""
    return [one for one in METRICS if one is METRICS[0] or any(group.mean(one.key) for group in ranking.groups)]


def leaderboard(ranking: Ranking, baseline: str, metric: Metric = METRICS[0]) -> Table:
    """A row per group, the best first; without the columns that are empty."""
    groups = ranking.ranked(metric.key, metric.less_is_better)
    macs = [cost.mean for group in groups if (cost := group.mean("cost/macs"))]
    scale, letter = (1e-9, "G") if max(macs, default=0) >= 1e9 else (1e-6, "M")
    unit = ", points" if metric.factor == 100 else ""

    def mean(key: str, show: Callable[[float], str], factor: float = 1.0) -> Callable[[Group], Cell]:
        def cell(group: Group) -> Cell:
            found = group.mean(key)
            return Cell(show(found.mean * factor), found.mean) if found else Cell(NO_VALUE)

        return cell

    def difference(group: Group) -> Cell:
        return with_interval(group.difference(metric.key), metric.factor, is_difference=True)

    columns: list[tuple[str, Callable[[Group], Cell]]] = [
        ("attention", lambda group: Cell(group.attention, group.attention)),
        ("model", lambda group: Cell(group.model, group.model)),
        ("settings", _settings),
        ("seeds", _seeds),
        (metric.heading, lambda group: with_interval(group.mean(metric.key), metric.factor)),
        (f"vs {baseline}{unit}", difference),
        ("test, %", lambda group: with_interval(group.mean(TEST))),
        ("params, M", mean("cost/params", three_digits, 1e-6)),
        (f"MACs, {letter}", mean("cost/macs", three_digits, scale)),
        ("images/s", mean("throughput/images_per_s", "{:,.0f}".format)),
        ("memory, GiB", mean("memory/peak_gib", "{:.2f}".format)),
        ("time", _time),
    ]
    always = ("attention", "model", "seeds", metric.heading)
    columns = [
        (head, make)
        for head, make in columns
        if head in always or any(make(one) not in ("", NO_VALUE) for one in groups)
    ]
    words = frozenset(i for i, (head, _) in enumerate(columns) if head in ("attention", "model", "settings"))
    return Table([head for head, _ in columns], [[make(group) for _, make in columns] for group in groups], words)


def common_text(ranking: Ranking) -> str:
    """The settings that the rows of a leaderboard leave out."""
    if not ranking.common:
        return ""
    return "Unless listed: " + " ".join(f"{name}={setting_text(value)}" for name, value in ranking.common.items())


def run_table(runs: Sequence[Run], rankings: Sequence[Ranking]) -> Table:
    """A row per run."""
    several = len(rankings) > 1
    labels = {
        run.folder: f"{ranking.data}: {group.label}" if several else group.label
        for ranking in rankings
        for group in ranking.groups
        for run in group.runs
    }
    rows = []
    for run in runs:
        words = [run.name, labels.get(run.folder, "debug" if run.is_debug else NO_VALUE), status_of(run)]
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


def status_of(run: Run) -> str:
    """As recorded; ``not started`` where nothing was trained."""
    return "not started" if run.never_started else run.status


def with_interval(found: MeanCI | None, factor: float = 100.0, is_difference: bool = False) -> Cell:
    """``93.00 ± 6.57``; a difference has a sign and the number of pairs."""
    if found is None:
        return Cell(NO_VALUE)
    places = 2 if factor == 100 else 4
    mean = f"{factor * found.mean:{'+' if is_difference else ''}.{places}f}".replace("-", "−")
    half_width = "" if found.half_width is None else f" ± {factor * found.half_width:.{places}f}"
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


def _settings(group: Group) -> Cell:
    """Those listed; the filter of the page finds all of them."""
    every = " ".join(f"{group.names[key]}={setting_text(value)}" for key, value in group.settings.items())
    return Cell(group.settings_text, every)


def _seeds(group: Group) -> Cell:
    """``2 of 3`` if one did not finish."""
    finished, started = len(group.finished), len({run.seed for run in group.runs})
    return Cell(str(finished) if finished == started else f"{finished} of {started}", finished)


def _time(group: Group) -> Cell:
    seconds = [run.seconds for run in group.finished.values()]
    mean = sum(seconds) / len(seconds) if seconds else None
    return Cell(NO_VALUE) if mean is None else Cell(duration(mean), mean)
