"""What a person gets of a benchmark: a table, how cost grows with the tokens, and files of both."""

import csv
import io
import json
from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Any

from fvit.run.console import console, print_facts, print_rows
from fvit.run.record import environment, write

if TYPE_CHECKING:
    from fvit.cost.measure import Row
    from fvit.cost.scaling import Estimate
    from fvit.cost.trends import Trend

# Key, head, and how it is printed: the factor, the digits and what the interval's keys end in.
_COLUMNS = {
    "params": ("params, M", 1e-6, ".2f"),
    "macs": ("MACs, G", 1e-9, ".3f"),
    "macs_paper": ("… paper's way", 1e-9, ".3f"),
    "latency_ms": ("latency, ms", 1, ".3g"),
    "images_per_s": ("images/s", 1, ",.0f"),
    "batch": ("batch", 1, ".0f"),
    "train_ms": ("training step, ms", 1, ".3g"),
    "saved_mib": ("saved, MiB", 1, ",.1f"),
    "peak_mib": ("peak, MiB", 1, ",.1f"),
    "train_peak_mib": ("… training", 1, ",.1f"),
}


def show(rows: Sequence["Row"], trends: Sequence["Trend"], config: dict[str, Any], folder: Path) -> None:
    """Print the tables, and write bench.csv, bench.json and, where something was timed, bench.html."""
    columns = [key for key in _COLUMNS if any(key in row.values for row in rows)]
    named = _names(rows)
    print_rows("Cost", [*named, *(_COLUMNS[key][0] for key in columns)], [_line(row, named, columns) for row in rows])
    for row in rows:
        if row.status != "ok":
            console.print(f"{row.candidate.label}: {row.status}", markup=False, soft_wrap=True)
    if trends:
        head = ["", "time ∝ N^", "training ∝ N^", "saved ∝ N^", "overtakes at N", "… in training"]
        print_rows(f"Growth with the tokens N; overtaking {config['baseline']}", head, [_trend(t) for t in trends])
    folder.mkdir(parents=True, exist_ok=True)
    write(folder / "bench.csv", _csv(rows))
    content = {"config": config, "environment": environment(), "rows": [_plain(row) for row in rows]}
    write(folder / "bench.json", json.dumps({**content, "trends": [asdict(trend) for trend in trends]}, indent=2))
    facts = [("table", str(folder / "bench.csv"))]
    if any(row.runs for row in rows):
        from fvit.run.bench_plot import draw

        write(folder / "bench.html", draw(rows, config))
        facts.append(("plots", str(folder / "bench.html")))
    print_facts("", facts)


def _names(rows: Sequence["Row"]) -> list[str]:
    """What tells the rows apart: model, attention and size, and whatever else varies."""
    further = [key for key in ("precision", "compiled") if len({getattr(row.candidate, key) for row in rows}) > 1]
    return ["model", "attention", "res", *further]


def _line(row: "Row", names: list[str], columns: list[str]) -> list[str]:
    told = [str(getattr(row.candidate, name)) for name in names]
    if row.status != "ok":
        told[0] = f"{told[0]} (!)"
    return [*told, *(_cell(row.values, key) for key in columns)]


def _cell(values: dict[str, float], key: str) -> str:
    if key not in values:
        return "–"
    _, factor, form = _COLUMNS[key]
    text = f"{values[key] * factor:{form}}"
    if f"{key}_low" in values:
        text += f" ({values[f'{key}_low'] * factor:{form}}–{values[f'{key}_high'] * factor:{form}})"
    return text


def _trend(trend: "Trend") -> list[str]:
    powers = (_estimate(e, ".2f") for e in (trend.forward, trend.training, trend.saved))
    crossings = (_estimate(e, ",.0f") for e in (trend.overtakes, trend.overtakes_in_training))
    return [trend.label, *powers, *crossings]


def _estimate(estimate: "Estimate | None", form: str) -> str:
    if estimate is None:
        return "–"
    text = f"{estimate.value:{form}}"
    if estimate.interval is None:
        return text
    return f"{text} ({estimate.interval[0]:{form}}–{estimate.interval[1]:{form}})"


def _plain(row: "Row") -> dict[str, Any]:
    told = {key: getattr(row.candidate, key) for key in ("model", "attention", "res", "precision", "compiled")}
    seconds = {name: timing.seconds for name, timing in row.runs.items()}
    return {**told, "status": row.status, "tokens": row.tokens, **row.values, "seconds": seconds}


def _csv(rows: Sequence["Row"]) -> str:
    plain = [{key: value for key, value in _plain(row).items() if key != "seconds"} for row in rows]
    text = io.StringIO()
    heads = list(dict.fromkeys(key for row in plain for key in row))
    writer = csv.DictWriter(text, heads, restval="", lineterminator="\n")
    writer.writeheader()
    writer.writerows(plain)
    return text.getvalue()
