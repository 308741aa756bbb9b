"""Prints the results of fvit-bench and writes them to bench.md, bench.csv, bench.json and bench.html."""

import html
import json
import math
from collections.abc import Sequence
from dataclasses import asdict
from importlib.util import find_spec
from pathlib import Path
from typing import TYPE_CHECKING, Any

from fvit.config.atomic import write_text
from fvit.cost.published import published_for
from fvit.cost.trends import trends
from fvit.launch.console import console, print_facts, print_rows
from fvit.launch.run_dir import environment
from fvit.reports.bench.charts import Chart, attentions, draw_charts, make_charts
from fvit.reports.bench.tables import make_tables, measured_on
from fvit.reports.web.colours import Palette
from fvit.reports.web.document import document
from fvit.reports.web.tables import Table, to_csv

if TYPE_CHECKING:
    from fvit.cost.measure import Row


def report_results(rows: Sequence["Row"], config: dict[str, Any], machine: dict[str, Any], folder: Path) -> None:
    """Prints the tables and writes all files to `folder`."""
    # A budget gives each size its own width: there is no one model that scales.
    scaling = trends(rows, config["baseline"]) if config["match"] is None else []
    models = {(row.candidate.model, row.candidate.attention) for row in rows}
    tables = make_tables(rows, scaling, published_for(models) if _has_published_models(config) else [], config)
    for table in tables:
        print_rows(table.title, table.head, table.rows)
        console.print(table.note, markup=False, style="dim")
    console.print(measured_on(machine), markup=False)

    records = [_record(row) for row in rows]
    runs = [{name: timing.seconds for name, timing in row.runs.items()} for row in rows]
    content = {"config": config, "machine": machine, "environment": environment()}
    content["rows"] = [{**record, "seconds": seconds} for record, seconds in zip(records, runs, strict=True)]
    content["growth"] = [_without_infinity(asdict(trend)) for trend in scaling]
    write_text(folder / "bench.csv", to_csv(records))
    write_text(folder / "bench.json", json.dumps(content, indent=2, allow_nan=False))
    parts = [f"## {table.title}\n\n{table.to_markdown()}\n\n{table.note}\n" for table in tables]
    write_text(folder / "bench.md", "\n".join([*parts, measured_on(machine), ""]))
    files = [
        (name, str(folder / f"bench.{ending}"))
        for name, ending in (("tables", "md"), ("values", "csv"), ("all runs", "json"))
    ]
    charts = make_charts(records, config["batch"])
    if charts and find_spec("plotly") is None:
        files.append(("plots", "none: pip install plotly"))
    elif charts:
        note = f"{' '.join(config['candidates'])}\n{measured_on(machine)}"
        write_text(folder / "bench.html", render_page("Cost measured by fvit-bench", note, charts, tables))
        files.append(("plots", str(folder / "bench.html")))
    print_facts("", files)


def render_page(title: str, note: str, charts: Sequence[Chart], tables: Sequence[Table]) -> str:
    """bench.html, which opens offline."""
    figures: dict[str, Any] = {}
    head = f'<h1>{html.escape(title)}</h1>\n<p class="note">{html.escape(note)}</p>'
    palette = Palette(attentions(charts))
    body = "\n".join([head, draw_charts(charts, figures, palette), *map(_html_section, tables)])
    return document(title, body, figures)


def _html_section(table: Table) -> str:
    title, note = html.escape(table.title), html.escape(table.note)
    return f'<h2>{title}</h2>\n<div class="wide">{table.to_html()}</div>\n<p class="note">{note}</p>'


def _has_published_models(config: dict[str, Any]) -> bool:
    """Whether the models are those that their names promise: a ViT-Ti of another depth or width is not."""
    keys = {override.lstrip("+~").partition("=")[0] for override in config["candidates"]}
    return config["match"] is None and not any(key.startswith("model.") for key in keys - {"model.name"})


def _record(row: "Row") -> dict[str, Any]:
    """A row of bench.json."""
    candidate, conditions = row.candidate, row.candidate.conditions
    return {
        "name": candidate.name,
        "model": candidate.model,
        "attention": candidate.attention,
        "res": conditions.res if isinstance(conditions.res, int) else conditions.size,
        "precision": conditions.precision,
        "compiled": conditions.compiled,
        "status": row.status,
        "tokens": row.tokens,
        **row.values,
    }


def _without_infinity(value: Any) -> Any:
    """The same with None for infinity, which JSON lacks."""
    if isinstance(value, dict):
        return {key: _without_infinity(item) for key, item in value.items()}
    if isinstance(value, list | tuple):
        return [_without_infinity(item) for item in value]
    return None if isinstance(value, float) and math.isinf(value) else value
