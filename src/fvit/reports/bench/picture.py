"""The plots of a benchmark as one picture."""

import io
from collections.abc import Sequence
from typing import TYPE_CHECKING

from fvit.reports.bench.charts import Chart, Series
from fvit.reports.web.palette import COLOURS

if TYPE_CHECKING:
    from matplotlib.axes import Axes

_MARKERS = "osD^X*Pv"


def picture(charts: Sequence[Chart]) -> bytes:
    """All charts as PNG, two in a row; there must be one at least."""
    from matplotlib.figure import Figure

    columns = min(2, len(charts))
    rows = -(-len(charts) // columns)
    figure = Figure(figsize=(7 * columns, 4.2 * rows), layout="constrained", dpi=110)
    axes = list(figure.subplots(rows, columns, squeeze=False).flat)
    for chart, place in zip(charts, axes, strict=False):
        (_bars if chart.axis is None else _curves)(place, chart)
        place.set_title(chart.title)
        place.grid(alpha=0.25)
        place.spines[["top", "right"]].set_visible(False)
    for place in axes[len(charts) :]:
        place.set_visible(False)
    file = io.BytesIO()
    figure.savefig(file, format="png")
    return file.getvalue()


def _curves(axes: "Axes", chart: Chart) -> None:
    from matplotlib.ticker import LogLocator, NullFormatter, StrMethodFormatter

    for number, series in enumerate(chart.series):
        axes.errorbar(
            series.x,
            series.y,
            yerr=_error(series),
            label=series.name,
            color=COLOURS[number % len(COLOURS)],
            marker=_MARKERS[number % len(_MARKERS)],
            markersize=5,
            linewidth=1.6,
            elinewidth=0.8,
        )
    axes.set(xscale="log", yscale="log", xlabel=chart.axis, ylabel=chart.unit)
    axes.set_xticks(list(chart.ticks), list(chart.ticks.values()))
    axes.xaxis.set_minor_formatter(NullFormatter())
    axes.yaxis.set_major_locator(LogLocator(subs=(1, 2, 5)))
    axes.yaxis.set_major_formatter(StrMethodFormatter("{x:,.4g}"))
    axes.yaxis.set_minor_formatter(NullFormatter())
    axes.legend(frameon=False)


def _bars(axes: "Axes", chart: Chart) -> None:
    for series in chart.series:
        axes.barh([series.name], series.y, xerr=_error(series), color=COLOURS[0], error_kw=dict(elinewidth=0.8))
    axes.set(xlabel=chart.unit)


def _error(series: Series) -> list[list[float]] | None:
    down = [value - low for low, value in zip(series.low, series.y, strict=True)]
    up = [high - value for high, value in zip(series.high, series.y, strict=True)]
    return [down, up] if any(down + up) else None
