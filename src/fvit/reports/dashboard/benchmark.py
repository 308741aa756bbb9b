"""A benchmark on Weights & Biases: candidates logged as runs, and charts as Markdown tables."""

import hashlib
from collections.abc import Sequence
from pathlib import Path

from fvit.reports.bench.charts import Benchmark, Chart
from fvit.reports.web.tables import NO_VALUE, Table, three_digits

# Distinguishes these runs from training runs on W&B.
JOB_TYPE = "bench"


def metric_name(chart: Chart) -> str:
    """The metric that holds the values of a chart."""
    return f"bench/{chart.key}"


def size_name(chart: Chart) -> str:
    """The metric that holds the sizes on the horizontal axis of a chart."""
    return "bench/tokens" if chart.axis == "tokens" else "bench/pixels"


def log_candidates(benchmark: Benchmark, entity: str, project: str, mode: str, folder: Path) -> None:
    """Logs a W&B run per candidate. Its id depends on the names alone, so that logging again replaces it.

    Args:
        benchmark: its charts.
        entity: owner of the project; empty for W&B's default.
        project: on W&B.
        mode: as for ``wandb.init``.
        folder: for wandb's local files.
    """
    import wandb

    settings = wandb.Settings(silent=True, console="off", disable_git=True, x_disable_stats=True, init_timeout=20)
    for candidate, rows in _rows_by_candidate(benchmark.charts).items():
        name = f"{benchmark.name} {candidate}"
        run = wandb.init(
            entity=entity or None,
            project=project,
            id=hashlib.sha256(name.encode()).hexdigest()[:8],
            name=name,
            group=benchmark.name,
            job_type=JOB_TYPE,
            notes=benchmark.note,
            mode=mode,
            dir=folder,
            settings=settings,
        )
        for row in rows:
            run.log(row)
        run.finish()


def _rows_by_candidate(charts: Sequence[Chart]) -> dict[str, list[dict[str, float]]]:
    """For each candidate the metrics at each size, the smallest first."""
    found: dict[str, dict[int, dict[str, float]]] = {}
    for chart in charts:
        for series in chart.series:
            for size, value in zip(series.x, series.y, strict=True):
                row = found.setdefault(series.name, {}).setdefault(size, {})
                row[metric_name(chart)] = value
                if chart.axis is not None:
                    row[size_name(chart)] = size
    return {name: [rows[size] for size in sorted(rows)] for name, rows in found.items()}


def chart_table(chart: Chart) -> Table:
    """A row per size and a column per candidate; for a single size a row per candidate."""
    title = f"{chart.title}, {chart.unit}"
    if chart.axis is None:
        return Table(["", chart.unit], [[one.name, three_digits(one.y[0])] for one in chart.series], title=title)
    rows = []
    for size in sorted(chart.ticks):
        values = [dict(zip(one.x, one.y, strict=True)).get(size) for one in chart.series]
        cells = [NO_VALUE if value is None else three_digits(value) for value in values]
        rows.append([chart.ticks[size].replace("\n", ", "), *cells])
    return Table([chart.axis, *(one.name for one in chart.series)], rows, title=title)
