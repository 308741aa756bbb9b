"""The tables of a benchmark, as text: for a terminal, and for the page."""

import math
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from fvit.cost.measure import Row
    from fvit.cost.published import Published
    from fvit.cost.trends import Estimate, Trend

_NAMES = ["model", "attention", "res"]
# Key, head, and the factor of its unit.
_COUNTED = (
    ("embed_dim", "width", 1),
    ("depth", "depth", 1),
    ("match_error", "off by, %", 100),
    ("params", "params, M", 1e-6),
    ("macs", "MACs, G", 1e-9),
    ("macs_paper", "paper's way, G", 1e-9),
    ("saved_mib", "saved, MiB", 1),
    ("peak_mib", "peak, MiB", 1),
    ("train_peak_mib", "in training, MiB", 1),
)
_TIMED = (
    ("latency_ms", "latency, ms", 1),
    ("images_per_s", "images/s", 1),
    ("batch", "at batch", 1),
    ("train_ms", "training step, ms", 1),
)
# How a model is run, and what goes without saying.
_WAYS = (("precision", "float32"), ("compiled", False))
# The others are told by three digits that count.
_EXACT = {"embed_dim": ",.0f", "depth": ".0f", "batch": ",.0f", "match_error": "+.1f"}
# Those beside which the ratio to the baseline stands.
_COMPARED = ("latency_ms", "train_ms")


@dataclass(frozen=True)
class Table:
    """Cells as they are printed; the first column is text, the others are figures."""

    title: str
    head: list[str]
    rows: list[list[str]]
    note: str = ""


def tables(
    rows: Sequence["Row"], trends: Sequence["Trend"], published: Sequence["Published"], config: dict[str, Any]
) -> list[Table]:
    """What was counted, what was timed, how it grows, and what others have published; those that have rows."""
    baseline = config["baseline"]
    if not any(row.candidate.attention == baseline for row in rows):
        baseline = ""
    grown = f"Growth with the tokens N, beside {baseline}" if baseline else "Growth with the tokens N"
    found = [
        _figures("Size and memory", rows, _COUNTED, _counted_note(rows, config)),
        _figures("Time", rows, _TIMED, _timed_note(rows, config, baseline), baseline),
        _known(Table(grown, _GROWTH, [_trend(trend) for trend in trends], _growth_note(trends))),
        Table(
            "Published by others, not measured here", _PUBLISHED, [_quote(row) for row in published], _where(published)
        ),
    ]
    return _with_status([table for table in found if table.rows], rows)


def told(machine: dict[str, Any]) -> str:
    """On what it was measured, in a line."""
    threads = f"{machine['threads']} threads of {machine['cpus']} CPUs, " if machine["device"] == "cpu" else ""
    return f"On {machine['name']}, {threads}torch {machine['torch']}; candidates of one size took turns in one process."


def _counted_note(rows: Sequence["Row"], config: dict[str, Any]) -> str:
    parts = []
    if config["match"]:
        parts.append(f"Off by: {config['match']}, beside those of {config['to']} with softmax.")
    if _any(rows, "macs"):
        parts.append("MACs: every product; paper's way: those of convolutions and linear layers alone.")
    if _any(rows, "saved_mib"):
        parts.append(f"Memory of a batch of {config['batch']}; saved: for the backward pass; peak: what a step adds.")
    return " ".join(parts)


def _timed_note(rows: Sequence["Row"], config: dict[str, Any], baseline: str) -> str:
    parts = ["Median (95 % interval of it, for which it takes 6 runs)."]
    if _any(rows, "latency_ms"):
        parts.append("Latency: of one image.")
    if _any(rows, "train_ms"):
        parts.append(f"Training step: forward, backward and AdamW on a batch of {config['batch']}.")
    if baseline and (_any(rows, "latency_ms") or _any(rows, "train_ms")):
        parts.append(f"×: as many times as long as with {baseline}.")
    return " ".join(parts)


def _any(rows: Sequence["Row"], key: str) -> bool:
    return any(key in row.values for row in rows)


def _figures(
    title: str, rows: Sequence["Row"], columns: Sequence[tuple[str, str, float]], note: str, baseline: str = ""
) -> Table:
    columns = [column for column in columns if _any(rows, column[0])]
    ways = [key for key, usual in _WAYS if {getattr(row.candidate.conditions, key) for row in rows} != {usual}]
    head = [*_NAMES, *ways]
    for key, name, _ in columns:
        head += [name, "×"] if baseline and key in _COMPARED else [name]
    lines = []
    for row in rows:
        told = [str(getattr(row.candidate.conditions, key)) for key in ("res", *ways)]
        line = [row.candidate.model, row.candidate.attention, *told]
        for key, _, factor in columns:
            line.append(_cell(row.values, key, factor))
            if baseline and key in _COMPARED:
                line.append(_ratio(row, rows, key, baseline))
        lines.append(line)
    return Table(title, head, lines if columns else [], note)


def _with_status(found: list[Table], rows: Sequence["Row"]) -> list[Table]:
    """Where a candidate has failed, the first table says why."""
    if all(row.alive for row in rows):
        return found
    if not found or found[0].head[:3] != _NAMES:
        names = [[row.candidate.model, row.candidate.attention, str(row.candidate.conditions.res)] for row in rows]
        found = [Table("What became of it", _NAMES, names), *found]
    first, *others = found
    lines = [[*line, row.status] for line, row in zip(first.rows, rows, strict=True)]
    return [replace(first, head=[*first.head, "status"], rows=lines), *others]


def _cell(values: dict[str, float], key: str, factor: float) -> str:
    if key not in values:
        return "–"
    if key in _EXACT:
        return f"{values[key] * factor:{_EXACT[key]}}"
    text = _three(values[key] * factor)
    if f"{key}_low" in values:
        text += f" ({_three(values[f'{key}_low'] * factor)}–{_three(values[f'{key}_high'] * factor)})"
    return text


def _three(value: float) -> str:
    """Three digits that count, and all that stand before the point."""
    places = 2 - math.floor(math.log10(abs(value))) if value else 0
    return f"{value:,.{max(0, places)}f}"


def _ratio(row: "Row", rows: Sequence["Row"], key: str, baseline: str) -> str:
    same = (row.candidate.model, row.candidate.conditions)
    for other in rows:
        candidate = other.candidate
        if candidate.attention == baseline and (candidate.model, candidate.conditions) == same and key in other.values:
            return f"{row.values[key] / other.values[key]:.2f}" if key in row.values else "–"
    return "–"


def _growth_note(trends: Sequence["Trend"]) -> str:
    parts = [
        "Exponents (95 % intervals, for which it takes 6 runs of each size): least squares in logarithms over all "
        "sizes, what does not grow included; at the end: between the two largest sizes. Faster from N on, by "
        "interpolation between two sizes; <: already at the smallest size; >: not up to the largest."
    ]
    if any(trend.unit == "pixels" for trend in trends):
        parts.append("In pixels: N counts those of an image, for a model that has no number of tokens of its own.")
    return " ".join(parts)


_GROWTH = [
    "",
    "time ∝ N^",
    "at the end",
    "training ∝ N^",
    "at the end",
    "saved ∝ N^",
    "training peak ∝ N^",
    "faster from N on",
    "in training",
]


def _known(table: Table) -> Table:
    """Without the columns in which no row has anything."""
    kept = [i for i in range(len(table.head)) if any(row[i] != "–" for row in table.rows)]
    return replace(table, head=[table.head[i] for i in kept], rows=[[row[i] for i in kept] for row in table.rows])


def _trend(trend: "Trend") -> list[str]:
    growth = (trend.forward, trend.forward_end, trend.training, trend.training_end, trend.saved, trend.training_peak)
    powers = (_power(estimate) for estimate in growth)
    crossings = (_crossing(e, trend.sizes) for e in (trend.overtakes, trend.overtakes_in_training))
    name = trend.name if trend.unit == "tokens" else f"{trend.name}, in pixels"
    return [name, *powers, *crossings]


def _power(estimate: "Estimate | None") -> str:
    if estimate is None:
        return "–"
    if estimate.interval is None:
        return f"{estimate.value:.2f}"
    return f"{estimate.value:.2f} ({estimate.interval[0]:.2f}–{estimate.interval[1]:.2f})"


def _crossing(estimate: "Estimate | None", sizes: Sequence[int]) -> str:
    """A size; beyond those that were measured, only that."""

    def tell(value: float) -> str:
        if value == 0:
            return f"<{sizes[0]:,}"
        return f">{sizes[-1]:,}" if math.isinf(value) else f"{value:,.0f}"

    if estimate is None:
        return "–"
    text = tell(estimate.value)
    if estimate.interval is None or estimate.interval[0] == estimate.interval[1]:
        return text
    return f"{text} ({tell(estimate.interval[0])} to {tell(estimate.interval[1])})"


_PUBLISHED = ["as printed", "here", "res", "params, M", "GMACs", "images/s", "on", "top-1, %", "source"]


def _quote(figure: "Published") -> list[str]:
    return [
        figure.name,
        f"{figure.model} {figure.attention}",
        str(figure.res),
        *(text or "–" for text in (figure.params_m, figure.gmacs, figure.images_per_s, figure.hardware, figure.top1)),
        figure.source,
    ]


def _where(published: Sequence["Published"]) -> str:
    return "\n".join(dict.fromkeys(f"{figure.source}: {figure.where}" for figure in published))
