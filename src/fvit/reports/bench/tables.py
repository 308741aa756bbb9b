"""The tables that fvit-bench prints and writes."""

import math
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

from fvit.reports.web.tables import NO_VALUE, Table, three_digits

if TYPE_CHECKING:
    from fvit.cost.measure import Row
    from fvit.cost.published import Published
    from fvit.cost.trends import Estimate, Trend

# Key in bench.json, heading, and the factor that converts to its unit.
_SIZE_COLUMNS = (
    ("embed_dim", "width", 1),
    ("depth", "depth", 1),
    ("match_error", "budget error, %", 100),
    ("params", "params, M", 1e-6),
    ("macs", "MACs, G", 1e-9),
    ("macs_paper", "papers' convention, G", 1e-9),
    ("saved_mib", "activations, MiB", 1),
    ("peak_mib", "peak inference, MiB", 1),
    ("train_peak_mib", "peak training, MiB", 1),
)
_TIME_COLUMNS = (
    ("latency_ms", "latency, ms", 1),
    ("images_per_s", "images/s", 1),
    ("batch", "batch", 1),
    ("train_ms", "training step, ms", 1),
    ("mfu", "MFU, %", 100),
)
# All other values get three significant digits.
_FORMATS = {"embed_dim": ",.0f", "depth": ".0f", "batch": ",.0f", "match_error": "+.1f"}
# Followed by a column with the number of runs.
_RUNS = {"latency_ms": "latency_ms_runs", "images_per_s": "batch_ms_runs", "train_ms": "train_ms_runs"}
# Followed by a column with the ratio to the baseline.
_COMPARED = ("latency_ms", "train_ms")
# The widest intervals of what is printed: the width of an exponent's, and the quotient of the ends of a ratio's, of a
# crossover's, and of that of a ratio of about 1. Wider ones tell neither N from N², nor how much faster.
_EXPONENT, _FACTOR, _SAME = 0.5, 2.0, 1.2

_NAMES = ["model", "attention", "res"]
# Conditions that have a column only if some candidate differs from the default.
_DEFAULTS = {"precision": "float32", "compiled": False}
_SCALING = ["candidate", "runs", "latency ∝ N^", "last two", "training ∝ N^", "last two"]
_SCALING += ["activations ∝ N^", "peak training ∝ N^", "faster from N on", "in training"]
_PUBLISHED = ["published as", "model here", "res", "params, M", "GMACs"]
_PUBLISHED += ["images/s", "hardware", "top-1, %", "source"]
_WORDS = {"model", "attention", "precision", "compiled", "status", "candidate"}
_WORDS |= {"published as", "model here", "hardware", "source"}


def make_tables(
    rows: Sequence["Row"], trends: Sequence["Trend"], published: Sequence["Published"], config: dict[str, Any]
) -> list[Table]:
    """Size and memory, time, scaling and published results; without the tables that would be empty."""
    baseline = config["baseline"] if any(row.candidate.attention == config["baseline"] for row in rows) else None
    tables = [
        _measured("Size and memory", rows, _SIZE_COLUMNS, _size_note(rows, config)),
        _measured("Time", rows, _TIME_COLUMNS, _time_note(rows, config["batch"], baseline), baseline),
        _scaling(trends, baseline),
        _published(published),
    ]
    return _with_status([table for table in tables if table.rows], rows)


def measured_on(machine: dict[str, Any]) -> str:
    """The line that names the machine."""
    threads = f"{machine['threads']} threads of {machine['cpus']} CPUs, " if machine["device"] == "cpu" else ""
    busy = machine.get("busy_cpus")  # since version 0.2
    load = "" if busy is None else f"{busy:.1f} of {machine['cpus']} CPUs busy with other work at the start, "
    return (
        f"Measured on {machine['name']}, {threads}{load}torch {machine['torch']}. "
        "Candidates with the same image size took turns in one process."
    )


def _table(title: str, head: list[str], rows: list[list[str]], note: str = "") -> Table:
    words = frozenset(i for i, heading in enumerate(head) if heading in _WORDS)
    return Table(head, rows, words, title, note)


def _measured(
    title: str,
    rows: Sequence["Row"],
    columns: Sequence[tuple[str, str, float]],
    note: str,
    baseline: str | None = None,
) -> Table:
    columns = [column for column in columns if _any_has(rows, column[0])]
    if not columns:
        return _table(title, [], [])
    conditions = {name: [getattr(row.candidate.conditions, name) for row in rows] for name in _DEFAULTS}
    shown = [name for name, values in conditions.items() if set(values) != {_DEFAULTS[name]}]
    head, lines = [*_NAMES, *shown], [_names(row) for row in rows]
    for number, line in enumerate(lines):
        line += [str(conditions[name][number]) for name in shown]
    for key, heading, factor in columns:
        head.append(heading)
        for row, line in zip(rows, lines, strict=True):
            line.append(_value(row.values, key, factor))
        if key in _RUNS:
            head.append("runs")
            for row, line in zip(rows, lines, strict=True):
                line.append(str(row.values.get(_RUNS[key], NO_VALUE)))
        if baseline and key in _COMPARED:
            head.append("×")
            for row, line in zip(rows, lines, strict=True):
                line.append(_ratio(row, rows, key, baseline))
    return _table(title, head, lines, note)


def _size_note(rows: Sequence["Row"], config: dict[str, Any]) -> str:
    parts = []
    if config["match"]:
        parts.append(f"Budget error: {config['match']} relative to {config['to']} with softmax.")
    if _any_has(rows, "macs"):
        parts.append("MACs: all multiply-accumulates; papers' convention: convolutions and linear layers only.")
    if _any_has(rows, "saved_mib"):
        parts.append(f"Memory at batch size {config['batch']}: activations saved for backward; peak increase per step.")
    return " ".join(parts)


def _time_note(rows: Sequence["Row"], batch: int, baseline: str | None) -> str:
    parts = ["Median (95 % CI, given at least 6 runs)."]
    if _any_has(rows, "latency_ms"):
        parts.append("Latency at batch size 1.")
    if _any_has(rows, "images_per_s"):
        parts.append("Images/s at the fastest batch size.")
    if _any_has(rows, "train_ms"):
        parts.append(f"Training step: forward, backward and AdamW at batch size {batch}.")
    if rates := {
        row.candidate.conditions.precision: row.values["matmul_tflops"] for row in rows if "mfu" in row.values
    }:
        found = " and ".join(f"{three_digits(rate)} TFLOP/s in {precision}" for precision, rate in rates.items())
        parts.append(f"MFU: FLOPs per second of training, relative to a matrix product's: {found}, measured here.")
    if baseline and any(_any_has(rows, key) for key in _COMPARED):
        parts.append(
            f"×: time relative to {baseline} in the same round. ≈ 1: no difference; –: unknown after so few or such "
            "different runs. More take a larger runs= and seconds=."
        )
    return " ".join(parts)


def _scaling(trends: Sequence["Trend"], baseline: str | None) -> Table:
    lines = []
    for trend in trends:
        name = trend.name if trend.unit == "tokens" else f"{trend.name}, in pixels"
        times = (trend.forward, trend.forward_end, trend.training, trend.training_end)
        memory = (f"{found.value:.2f}" if found else NO_VALUE for found in (trend.saved, trend.training_peak))
        crossovers = (_crossover(found, trend.sizes) for found in (trend.overtakes, trend.overtakes_in_training))
        runs = NO_VALUE if trend.runs is None else str(trend.runs)
        lines.append([name, runs, *map(_exponent, times), *memory, *crossovers])
    note = (
        "Exponents: log-log least squares over all sizes, constant cost included (95 % CI). Last two: slope between "
        "the two largest sizes. Faster from N on: crossover with the baseline, interpolated; <: below the smallest "
        "size; >: beyond the largest. Runs: the fewest at any size. –: unknown, since the intervals of times take at "
        f"least 6 runs per size, and must be above 0 and at most {_EXPONENT} wide for an exponent, and span at most a "
        f"factor of {_FACTOR:.0f} for a crossover."
    )
    if any(trend.unit == "pixels" for trend in trends):
        note += " In pixels: N counts the pixels of the image, since the model has no tokens."
    title = "Scaling with the number of tokens N" + (f", compared with {baseline}" if baseline else "")
    filled = [i for i in range(len(_SCALING)) if any(line[i] != NO_VALUE for line in lines)]
    return _table(title, [_SCALING[i] for i in filled], [[line[i] for i in filled] for line in lines], note)


def _published(published: Sequence["Published"]) -> Table:
    lines = []
    for one in published:
        figures = (one.params_m, one.gmacs, one.images_per_s, one.hardware, one.top1)
        names = [one.name, f"{one.model} {one.attention}", str(one.res)]
        lines.append([*names, *(figure or NO_VALUE for figure in figures), one.source])
    sources = "\n".join(dict.fromkeys(f"{one.source}: {one.where}" for one in published))
    return _table("Published results, not measured here", _PUBLISHED, lines, sources)


def _with_status(tables: list[Table], rows: Sequence["Row"]) -> list[Table]:
    """If a candidate failed, the first table gets a status column."""
    if all(row.alive for row in rows):
        return tables
    if not tables or tables[0].head[:3] != _NAMES:
        tables = [_table("Status", _NAMES, [_names(row) for row in rows]), *tables]
    first, *others = tables
    lines = [[*line, row.status] for line, row in zip(first.rows, rows, strict=True)]
    return [_table(first.title, [*first.head, "status"], lines, first.note), *others]


def _any_has(rows: Sequence["Row"], key: str) -> bool:
    return any(key in row.values for row in rows)


def _names(row: "Row") -> list[str]:
    return [row.candidate.model, row.candidate.attention, row.candidate.conditions.size]


def _value(values: dict[str, float], key: str, factor: float) -> str:
    if key not in values:
        return NO_VALUE
    if key in _FORMATS:
        return f"{values[key] * factor:{_FORMATS[key]}}"
    median, *bounds = (three_digits(values[k] * factor) for k in (key, f"{key}_low", f"{key}_high") if k in values)
    return f"{median} ({'–'.join(bounds)})" if bounds else median


def _ratio(row: "Row", rows: Sequence["Row"], key: str, baseline: str) -> str:
    """Relative to the baseline in the same model under the same conditions, if its interval tells them apart."""
    from fvit.cost.trends import ratio

    for other in rows:
        ours, theirs = row.candidate, other.candidate
        same = (ours.model, ours.conditions) == (theirs.model, theirs.conditions)
        if same and theirs.attention == baseline and key in row.runs and key in other.runs:
            return "1" if row is other else _apart(ratio(row.runs[key], other.runs[key]))
    return NO_VALUE


def _apart(found: "Estimate") -> str:
    if found.interval is None:
        return NO_VALUE
    low, high = found.interval
    differs = low > 1 or high < 1
    if high > (_FACTOR if differs else _SAME) * low:
        return NO_VALUE
    return f"{found.value:.2f} ({low:.2f}–{high:.2f})" if differs else f"≈ 1 ({low:.2f}–{high:.2f})"


def _exponent(found: "Estimate | None") -> str:
    if found is None or found.interval is None:
        return NO_VALUE
    low, high = found.interval
    return f"{found.value:.2f} ({low:.2f}–{high:.2f})" if low > 0 and high - low <= _EXPONENT else NO_VALUE


def _crossover(found: "Estimate | None", sizes: Sequence[int]) -> str:
    def show(value: float) -> str:
        if value == 0:
            return f"<{sizes[0]:,}"
        return f">{sizes[-1]:,}" if math.isinf(value) else f"{value:,.0f}"

    if found is None or found.interval is None:
        return NO_VALUE
    low, high = found.interval
    if low == high:
        return show(low)
    return f"{show(found.value)} ({show(low)} to {show(high)})" if 0 < high <= _FACTOR * low else NO_VALUE
