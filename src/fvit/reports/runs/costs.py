"""Benchmarks that `fvit-bench` left, as charts."""

import json
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from fvit.reports.bench.charts import Chart, charts, saved
from fvit.reports.bench.tables import told


@dataclass(frozen=True)
class Benchmark:
    """One of them. Of one that cannot be read, `charts` is empty and `note` says why."""

    name: str
    note: str
    charts: list[Chart]


def read_benchmarks(paths: Sequence[Path]) -> list[Benchmark]:
    """Each bench.json's charts, and on what they were measured."""
    return [_read(path) for path in paths]


def _read(path: Path) -> Benchmark:
    name = path.parent.name
    try:
        content = json.loads(path.read_text(encoding="utf-8"))
        drawn = charts(saved(content["rows"]), content["config"])
        title = " ".join(content["config"]["candidates"])
        return Benchmark(f"{name}: {title}", told(content["machine"]), drawn)
    except (ValueError, KeyError, TypeError) as error:
        return Benchmark(name, f"{path} is damaged or of another version ({type(error).__name__}: {error})", [])
