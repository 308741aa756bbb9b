"""The cost curves of a benchmark: as runs, since W&B draws what runs have logged, and as tables."""

import hashlib
from collections.abc import Sequence
from pathlib import Path

from fvit.reports.bench.charts import Chart
from fvit.reports.runs.costs import Benchmark
from fvit.reports.runs.tables import DASH, Cell, Table, to_markdown

# By which W&B tells such runs from others.
JOB_TYPE = "bench"


def group(benchmark: Benchmark) -> str:
    """What the runs of a benchmark have in common: the name of its folder."""
    return benchmark.name.partition(":")[0]


def metric(chart: Chart) -> str:
    """The name under which a chart's figures are logged."""
    return f"bench/{chart.key}"


def axis(chart: Chart) -> str:
    """The name under which the sizes are logged over which its curves are drawn."""
    return "bench/tokens" if chart.axis == "tokens" else "bench/pixels"


def log(benchmark: Benchmark, entity: str, project: str, mode: str, folder: Path) -> None:
    """Log each candidate of a benchmark as a run of W&B, with an id of its own: logged again, it is written anew.

    Args:
        benchmark: whose figures.
        entity: whose project it is.
        project: of W&B.
        mode: of ``wandb.init``.
        folder: for wandb's own files.
    """
    import wandb

    settings = wandb.Settings(silent=True, console="off", disable_git=True, x_disable_stats=True, init_timeout=20)
    for name, rows in _by_candidate(benchmark.charts).items():
        identity = f"{group(benchmark)} {name}"
        run = wandb.init(
            entity=entity or None,
            project=project,
            id=hashlib.sha256(identity.encode()).hexdigest()[:8],
            name=identity,
            group=group(benchmark),
            job_type=JOB_TYPE,
            notes=benchmark.note,
            mode=mode,
            dir=folder,
            settings=settings,
        )
        for row in rows:
            run.log(row)
        run.finish()


def tables(benchmark: Benchmark) -> list[tuple[str, str]]:
    """Title and Markdown of each chart; a line a size, or a line a candidate where there is one size."""
    return [(f"{chart.title}, {chart.unit}", to_markdown(_table(chart))) for chart in benchmark.charts]


def _by_candidate(charts: Sequence[Chart]) -> dict[str, list[dict[str, float]]]:
    """For each candidate what is logged of it: all figures at one size, the smallest first."""
    found: dict[str, dict[int, dict[str, float]]] = {}
    for chart in charts:
        for series in chart.series:
            for place, value in zip(series.x, series.y, strict=True):
                row = found.setdefault(series.name, {}).setdefault(place, {})
                row |= {metric(chart): value} | ({} if chart.axis is None else {axis(chart): place})
    return {name: [rows[place] for place in sorted(rows)] for name, rows in found.items()}


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
