"""Charts of benchmark results, built from the rows of bench.json and drawn by plotly."""

import json
import math
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from fvit.reports.bench.tables import measured_on
from fvit.reports.web.colours import DASHES, SYMBOLS, Palette
from fvit.reports.web.document import plot

# Key in bench.json, title, unit, and the factor that converts to it.
_METRICS = (
    ("latency_ms", "Latency at batch size 1", "ms", 1),
    ("train_ms", "Training step at batch size {batch}", "ms", 1),
    ("images_per_s", "Throughput at the best batch size", "images/s", 1),
    ("saved_mib", "Activations saved for backward, batch size {batch}", "MiB", 1),
    ("train_peak_mib", "Peak memory in training, batch size {batch}", "MiB", 1),
    ("macs", "MACs per image", "G", 1e-9),
    ("params", "Parameters", "M", 1e-6),
)


@dataclass(frozen=True)
class Series:
    """The curve or bar of one candidate: values `y` with 95 % confidence bounds, over `x`."""

    name: str
    attention: str
    x: list[int]
    y: list[float]
    low: list[float]
    high: list[float]


@dataclass(frozen=True)
class Chart:
    """One metric of all candidates: log-log curves over `axis`, or bars for a single image size (`axis` is None)."""

    key: str
    title: str
    unit: str
    axis: str | None
    ticks: dict[int, str]
    series: list[Series]

    @property
    def height(self) -> int:
        """In pixels; each bar takes a line."""
        return 120 + 32 * len(self.series) if self.axis is None else 420

    def figure(self, palette: Palette) -> dict[str, Any]:
        """For plotly."""
        return self._bars(palette) if self.axis is None else self._curves(palette)

    def _curves(self, palette: Palette) -> dict[str, Any]:
        # Colours tell mechanisms apart; dashes and markers the candidates of one mechanism.
        before = [[other.attention for other in self.series[:number]] for number in range(len(self.series))]
        repeats = [names.count(series.attention) for names, series in zip(before, self.series, strict=True)]
        traces = [
            {
                "type": "scatter",
                "x": series.x,
                "y": series.y,
                "error_y": _error_bars(series),
                "name": series.name,
                "mode": "lines+markers",
                "marker": {"symbol": SYMBOLS[number % len(SYMBOLS)], "size": 8},
                "line": {"color": palette.colour(series.attention), "dash": DASHES[repeat % len(DASHES)]},
                "hovertemplate": f"%{{y:.4g}} {self.unit}",
            }
            for number, (series, repeat) in enumerate(zip(self.series, repeats, strict=True))
        ]
        ticktext = [text.replace("\n", "<br>") for text in self.ticks.values()]
        drawn = [y for series in self.series for y in (*series.low, *series.high)]
        # Ticks at 1, 2 and 5 are too few within a decade; plotly chooses those.
        dtick = {"dtick": "D2"} if max(drawn) > 10 * min(drawn) else {}
        layout = {
            "xaxis": {"type": "log", "title": self.axis, "tickvals": list(self.ticks), "ticktext": ticktext},
            "yaxis": {
                "type": "log",
                "title": self.unit,
                "tickformat": "~s" if self.unit == "images/s" else "~g",
                **dtick,
            },
            "hovermode": "x unified",
            "showlegend": True,
        }
        return {"data": traces, "layout": layout}

    def _bars(self, palette: Palette) -> dict[str, Any]:
        traces = [
            {
                "type": "bar",
                "x": series.y,
                "y": [series.name],
                "error_x": _error_bars(series),
                "orientation": "h",  # names are long
                "marker": {"color": palette.colour(series.attention)},
                "hovertemplate": f"%{{x:.4g}} {self.unit}<extra>%{{y}}</extra>",
            }
            for series in self.series
        ]
        layout = {"xaxis": {"title": self.unit, "rangemode": "tozero"}, "yaxis": {}, "showlegend": False}
        return {"data": traces, "layout": layout}


def make_charts(rows: Iterable[dict[str, Any]], batch: int) -> list[Chart]:
    """A chart per metric, of the candidates that have it.

    Args:
        rows: as in bench.json.
        batch: batch size of the training step and of the memory figures.
    """
    charts = []
    for key, title, unit, factor in _METRICS:
        measured = [row for row in rows if key in row]
        # Parameters hardly depend on the image size: no curves.
        if measured and (key != "params" or len({row["res"] for row in measured}) == 1):
            charts.append(_chart(measured, key, title.format(batch=batch), unit, factor))
    return charts


def attentions(charts: Iterable[Chart]) -> list[str]:
    """The mechanisms in the charts, for the colours of the page."""
    return list(dict.fromkeys(series.attention for chart in charts for series in chart.series))


def draw_charts(charts: Sequence[Chart], figures: dict[str, Any], palette: Palette, prefix: str = "") -> str:
    """Adds the charts to `figures` under their keys, with `prefix`; returns the HTML of the grid that shows them."""
    figures |= {prefix + chart.key: chart.figure(palette) for chart in charts}
    plots = "\n".join(plot(prefix + chart.key, chart.height, chart.title) for chart in charts)
    return f'<div class="plots">\n{plots}\n</div>'


@dataclass(frozen=True)
class Benchmark:
    """Saved results of `fvit-bench`. If bench.json is unreadable, `charts` is empty and `note` gives the reason.

    Attributes:
        name: of its folder.
        candidates: the overrides that were measured.
        note: the machine.
        charts: as of `make_charts`.
    """

    name: str
    candidates: str
    note: str
    charts: list[Chart]

    @property
    def label(self) -> str:
        return f"{self.name}: {self.candidates}" if self.candidates else self.name


def read_benchmark(path: Path) -> Benchmark:
    """Reads a bench.json."""
    name = path.parent.name
    try:
        content = json.loads(path.read_text(encoding="utf-8"))
        config = content["config"]
        charts = make_charts(content["rows"], config["batch"])
        return Benchmark(name, " ".join(config["candidates"]), measured_on(content["machine"]), charts)
    except (ValueError, KeyError, TypeError) as error:
        reason = f"{path} is damaged or from another version ({type(error).__name__}: {error})"
        return Benchmark(name, "", reason, [])


def _chart(rows: Sequence[dict[str, Any]], key: str, title: str, unit: str, factor: float) -> Chart:
    sizes = {row["res"] for row in rows}
    if len(sizes) == 1:
        bars = [_series(row["name"], [row], [0], key, factor) for row in rows]
        bars.sort(key=lambda bar: bar.y)  # plotly draws from the bottom: the largest ends at the top
        return Chart(key, f"{title}, {sizes.pop()} px", unit, None, {}, bars)
    # Pixels for all if one model has no tokens to count.
    in_tokens = all(row["tokens"] is not None for row in rows)
    by_name: dict[str, list[dict[str, Any]]] = {}
    for row in rows:
        by_name.setdefault(row["name"], []).append(row)
    series, ticks = [], {}
    for name, line in by_name.items():
        line.sort(key=lambda row: _side(row["res"]))
        x = [row["tokens"] if in_tokens else _side(row["res"]) for row in line]
        series.append(_series(name, line, x, key, factor))
        ticks |= {
            n: f"{n:,}\n{row['res']} px" if in_tokens else str(row["res"]) for n, row in zip(x, line, strict=True)
        }
    return Chart(key, title, unit, "tokens" if in_tokens else "image size, px", ticks, series)


def _side(res: int | str) -> int:
    """The side of a square of as many pixels as 224, or 192×128, stands for."""
    height, *width = map(int, str(res).split("×"))
    return math.isqrt(height * width[0]) if width else height


def _series(name: str, rows: Sequence[dict[str, Any]], x: list[int], key: str, factor: float) -> Series:
    def values(suffix: str) -> list[float]:
        return [row.get(key + suffix, row[key]) * factor for row in rows]

    # The name is that of the mechanism, followed by those of its options that vary.
    mechanism = rows[0]["attention"].partition(" ")[0]
    return Series(name, mechanism, x, values(""), values("_low"), values("_high"))


def _error_bars(series: Series) -> dict[str, Any]:
    up = [high - value for high, value in zip(series.high, series.y, strict=True)]
    down = [value - low for low, value in zip(series.low, series.y, strict=True)]
    return {"type": "data", "array": up, "arrayminus": down, "thickness": 1, "visible": any(up + down)}
