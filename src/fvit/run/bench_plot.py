"""The plots of a benchmark, as one page that opens offline."""

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    import plotly.graph_objects as go

    from fvit.cost.measure import Row

_PAGE = """<!doctype html>
<html lang="en">
<meta charset="utf-8">
<meta name="viewport" content="width=device-width">
<title>Cost</title>
<style>
body {{ margin: 0 auto; max-width: 1200px; font-family: sans-serif }}
p {{ margin: 1em 5em; color: #444 }}
</style>
{plots}
<p>{note}</p>
</html>
"""
# Colours that stay apart for the colour-blind (Okabe and Ito), and symbols for where they do not suffice.
_COLOURS = ("#0072B2", "#D55E00", "#009E73", "#CC79A7", "#E69F00", "#56B4E9", "#000000")
_SYMBOLS = ("circle", "square", "diamond", "triangle-up", "x", "star")

# What is drawn: its key, title, axis, and the factor of its unit.
_FIGURES = (
    ("latency_ms", "Latency of one image", "ms", 1),
    ("train_ms", "Training step", "ms", 1),
    ("saved_mib", "Kept for the backward pass", "MiB", 1),
    ("macs", "Multiply-accumulates of one image, every product", "G", 1e-9),
    ("images_per_s", "Throughput at the best batch", "images/s", 1),
)


def draw(rows: Sequence["Row"], config: dict[str, Any]) -> str:
    """The page: a curve over the tokens for each figure, or bars where there is one size alone."""
    rows = [row for row in rows if row.status == "ok"]
    figures = []
    for key, title, unit, factor in _FIGURES:
        if any(key in row.values for row in rows):
            title = f"{title}, batch {config['batch']}" if key in ("train_ms", "saved_mib") else title
            several = len({row.tokens for row in rows if key in row.values and row.tokens is not None}) > 1
            figures.append((_curves if several else _bars)([r for r in rows if key in r.values], key, factor))
            figures[-1].update_layout(title=title, template="plotly_white", height=520)
            figures[-1].update_yaxes(title=unit)
    plots = "\n".join(
        figure.to_html(
            full_html=False, include_plotlyjs=number == 0, config={"displaylogo": False}, div_id=f"plot{number}"
        )
        for number, figure in enumerate(figures)
    )
    note = "Medians with the 95 % confidence interval of the median; candidates of one size took turns in one process."
    return _PAGE.format(plots=plots, note=note)


def _curves(rows: Sequence["Row"], key: str, factor: float) -> "go.Figure":
    """Both axes logarithmic: a power law is a straight line."""
    import plotly.graph_objects as go

    figure = go.Figure()
    series: dict[str, list[Row]] = {}
    for row in rows:
        if row.tokens is not None:
            series.setdefault(f"{row.candidate.model} {row.candidate.attention}{row.candidate.manner}", []).append(row)
    for number, (name, found) in enumerate(series.items()):
        found.sort(key=lambda row: row.tokens)
        figure.add_scatter(
            x=[row.tokens for row in found],
            y=[row.values[key] * factor for row in found],
            error_y=_error(found, key, factor),
            name=name,
            mode="lines+markers",
            marker=dict(symbol=_SYMBOLS[number % len(_SYMBOLS)], size=9),
            line=dict(color=_COLOURS[number % len(_COLOURS)]),
            customdata=[row.candidate.res for row in found],
            hovertemplate="%{y:.4g} at %{x} tokens, %{customdata} px",
        )
    ticks = {row.tokens: f"{row.tokens}<br>{row.candidate.res} px" for found in series.values() for row in found}
    figure.update_xaxes(type="log", title="tokens", tickvals=list(ticks), ticktext=list(ticks.values()))
    figure.update_yaxes(type="log")
    return figure


def _bars(rows: Sequence["Row"], key: str, factor: float) -> "go.Figure":
    import plotly.graph_objects as go

    rows = sorted(rows, key=lambda row: row.values[key])
    return go.Figure(
        go.Bar(
            x=[row.candidate.label for row in rows],
            y=[row.values[key] * factor for row in rows],
            error_y=_error(rows, key, factor),
            marker_color=_COLOURS[0],
            hovertemplate="%{y:.4g}<extra>%{x}</extra>",
        )
    )


def _error(rows: Sequence["Row"], key: str, factor: float) -> dict[str, Any] | None:
    if not all(f"{key}_low" in row.values for row in rows):
        return None
    up = [(row.values[f"{key}_high"] - row.values[key]) * factor for row in rows]
    down = [(row.values[key] - row.values[f"{key}_low"]) * factor for row in rows]
    return dict(type="data", array=up, arrayminus=down, thickness=1)
