"""What the plots of a benchmark show, whoever draws them."""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from fvit.cost.measure import Row

# Key, title, unit and its factor.
_FIGURES = (
    ("latency_ms", "Latency of one image", "ms", 1),
    ("train_ms", "Training step, batch of {batch}", "ms", 1),
    ("images_per_s", "Throughput at the best batch", "images/s", 1),
    ("saved_mib", "Kept for the backward pass, batch of {batch}", "MiB", 1),
    ("train_peak_mib", "Peak of memory in training, batch of {batch}", "MiB", 1),
    ("macs", "Multiply-accumulates of one image, every product", "G", 1e-9),
    ("params", "Parameters", "M", 1e-6),
)


@dataclass(frozen=True)
class Point:
    """What was found about one candidate at one size."""

    name: str
    res: int
    tokens: int | None
    values: dict[str, float]


@dataclass(frozen=True)
class Series:
    """One line: figures `y` with their intervals, at `x`. Of bars, each has one of its own."""

    name: str
    x: list[int]
    y: list[float]
    low: list[float]
    high: list[float]


@dataclass(frozen=True)
class Chart:
    """One plot. Curves over `axis`, both logarithmic, where there are several sizes; bars where there is one."""

    key: str
    title: str
    unit: str
    axis: str | None
    ticks: dict[int, str]
    series: list[Series]


def points(rows: Iterable["Row"]) -> list[Point]:
    """Of what has just been measured."""
    return [Point(row.candidate.name, row.candidate.conditions.res, row.tokens, row.values) for row in rows]


def saved(rows: Iterable[dict[str, Any]]) -> list[Point]:
    """Of the rows of a bench.json."""
    return [Point(row["name"], row["res"], row["tokens"], row) for row in rows]


def charts(rows: Sequence[Point], config: dict[str, Any]) -> list[Chart]:
    """A chart for each figure that some candidate has; candidates without it are left out.

    Parameters are drawn for one size alone, for they hardly change.
    """
    found = []
    for key, title, unit, factor in _FIGURES:
        those = [row for row in rows if key in row.values]
        if those and (key != "params" or len({row.res for row in those}) == 1):
            found.append(_chart(those, key, title.format(batch=config["batch"]), unit, factor))
    return found


def _chart(rows: Sequence[Point], key: str, title: str, unit: str, factor: float) -> Chart:
    sizes = {row.res for row in rows}
    if len(sizes) == 1:
        bars = [_series(row.name, [row], [0], key, factor) for row in rows]
        return Chart(key, f"{title}, {sizes.pop()} px", unit, None, {}, sorted(bars, key=lambda bar: bar.y))
    # Where one model has no tokens to count, pixels serve for all.
    in_tokens = all(row.tokens is not None for row in rows)
    lines: dict[str, list[Point]] = {}
    for row in rows:
        lines.setdefault(row.name, []).append(row)
    series, ticks = [], {}
    for name, line in lines.items():
        line = sorted(line, key=lambda row: row.res)
        x = [row.tokens if in_tokens else row.res for row in line]
        series.append(_series(name, line, x, key, factor))
        for place, row in zip(x, line, strict=True):
            ticks[place] = f"{place:,}\n{row.res} px" if in_tokens else f"{place}"
    return Chart(key, title, unit, "tokens" if in_tokens else "side of the image, px", ticks, series)


def _series(name: str, rows: Sequence[Point], x: list[int], key: str, factor: float) -> Series:
    def values(suffix: str) -> list[float]:
        return [row.values.get(key + suffix, row.values[key]) * factor for row in rows]

    return Series(name, x, values(""), values("_low"), values("_high"))
