"""The cost curves of a benchmark, as tables: W&B plots what runs have logged, and a benchmark is none."""

from collections.abc import Sequence

from fvit.run.bench.charts import Chart
from fvit.run.report.costs import Benchmark
from fvit.run.report.tables import DASH, Cell, Table, to_markdown


def cost_tables(benchmark: Benchmark) -> list[tuple[str, str]]:
    """Title and Markdown of each chart; a line a size, or a line a candidate where there is one size."""
    return [(f"{chart.title}, {chart.unit}", to_markdown(_table(chart))) for chart in benchmark.charts]


def _table(chart: Chart) -> Table:
    if chart.axis is None:
        return _cells(["", chart.unit], [[series.name, _figure(series.y[0])] for series in chart.series])
    rows = [
        [chart.ticks[place].replace("\n", ", "), *(_at(series.x, series.y, place) for series in chart.series)]
        for place in sorted(chart.ticks)
    ]
    return _cells([chart.axis, *(series.name for series in chart.series)], rows)


def _at(x: Sequence[int], y: Sequence[float], place: int) -> str:
    """Of a candidate that failed at some size there is nothing."""
    return _figure(y[x.index(place)]) if place in x else DASH


def _figure(value: float) -> str:
    """Three digits that count, and all that stand before the point."""
    return f"{value:,.0f}" if abs(value) >= 100 else f"{value:.3g}"


def _cells(head: list[str], rows: list[list[str]]) -> Table:
    return Table(head, [[Cell(text) for text in row] for row in rows], frozenset({0}))
