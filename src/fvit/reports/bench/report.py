"""What a person gets of a benchmark: tables, how cost grows with the tokens, and files of both."""

import csv
import io
import json
import math
from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Any

from fvit.cost.published import beside
from fvit.cost.trends import trends
from fvit.launch.console import console, print_facts, print_rows
from fvit.launch.run_dir import environment, write
from fvit.reports.bench.charts import Chart, charts, points
from fvit.reports.bench.page import page
from fvit.reports.bench.tables import Table, tables, told

if TYPE_CHECKING:
    from fvit.cost.measure import Row


def show(rows: Sequence["Row"], config: dict[str, Any], machine: dict[str, Any], folder: Path) -> None:
    """Print the tables, and write bench.csv, bench.json and bench.html."""
    # With a budget the width changes from size to size: what grows is not one model.
    growth = trends(rows, config["baseline"]) if config["match"] is None else []
    names = {(row.candidate.model, row.candidate.attention) for row in rows}
    quoted = beside(names) if _known_to_others(config) else []
    found = tables(rows, growth, quoted, config)
    for table in found:
        print_rows(table.title, table.head, table.rows)
        console.print(table.note, markup=False, style="dim")
    console.print(on := told(machine), markup=False)
    write(folder / "bench.csv", _csv(rows))
    content = {"config": config, "machine": machine, "environment": environment()}
    content |= {"rows": [_plain(row) for row in rows], "growth": [_finite(asdict(trend)) for trend in growth]}
    write(folder / "bench.json", json.dumps(content, indent=2, allow_nan=False))
    facts = [("table", str(folder / "bench.csv")), ("all runs", str(folder / "bench.json"))]
    print_facts("", facts + _draw(charts(points(rows), config), found, on, folder))


def _known_to_others(config: dict[str, Any]) -> bool:
    """Whether the models are what their names say: with a depth or width of its own a ViT-Ti is none."""
    keys = {override.lstrip("+~").partition("=")[0] for override in config["candidates"]}
    return config["match"] is None and not any(key.startswith("model.") for key in keys - {"model.name"})


def _draw(drawn: Sequence[Chart], found: Sequence[Table], on: str, folder: Path) -> list[tuple[str, str]]:
    """Write the plots, and say where."""
    if not drawn:
        return []
    write(folder / "bench.html", page("What it costs", on, drawn, found))
    return [("plots", str(folder / "bench.html"))]


def _plain(row: "Row") -> dict[str, Any]:
    conditions = row.candidate.conditions
    told = {"name": row.candidate.name, "model": row.candidate.model, "attention": row.candidate.attention}
    told |= {key: getattr(conditions, key) for key in ("res", "precision", "compiled")}
    seconds = {name: timing.seconds for name, timing in row.runs.items()}
    return {**told, "status": row.status, "tokens": row.tokens, **row.values, "seconds": seconds}


def _finite(value: Any) -> Any:
    """The same with null for infinity, which JSON lacks."""
    if isinstance(value, dict):
        return {key: _finite(item) for key, item in value.items()}
    if isinstance(value, list | tuple):
        return [_finite(item) for item in value]
    return None if isinstance(value, float) and math.isinf(value) else value


def _csv(rows: Sequence["Row"]) -> str:
    plain = [{key: value for key, value in _plain(row).items() if key != "seconds"} for row in rows]
    text = io.StringIO()
    heads = list(dict.fromkeys(key for row in plain for key in row))
    writer = csv.DictWriter(text, heads, restval="", lineterminator="\n")
    writer.writeheader()
    writer.writerows(plain)
    return text.getvalue()
