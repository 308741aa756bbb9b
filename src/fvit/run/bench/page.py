"""The plots and tables of a benchmark as one page that opens offline."""

import html
from collections.abc import Sequence
from typing import TYPE_CHECKING

from fvit.run.bench.charts import COLOURS, Chart, Series
from fvit.run.bench.tables import Table

if TYPE_CHECKING:
    import plotly.graph_objects as go

_PAGE = """<!doctype html>
<html lang="en">
<meta charset="utf-8">
<meta name="viewport" content="width=device-width">
<title>fvit-bench</title>
<style>
body {{ margin: 2em auto; max-width: 1100px; padding: 0 1em; font: 15px/1.5 sans-serif; color: #222 }}
h1 {{ font-size: 1.4em }} h2 {{ font-size: 1.1em; margin-top: 2em }}
table {{ border-collapse: collapse; font-variant-numeric: tabular-nums }}
th, td {{ padding: .2em .7em; text-align: right; border-bottom: 1px solid #ddd }}
th:first-child, td:first-child {{ text-align: left }}
.wide {{ overflow-x: auto }} .note {{ color: #555; white-space: pre-line }}
</style>
<h1>{title}</h1>
<p class="note">{note}</p>
{parts}
</html>
"""
_SYMBOLS = ("circle", "square", "diamond", "triangle-up", "x", "star", "cross", "triangle-down")


def page(title: str, note: str, charts: Sequence[Chart], tables: Sequence[Table]) -> str:
    """HTML with all that it needs inside it."""
    parts = []
    for number, chart in enumerate(charts):
        figure = _bars(chart) if chart.axis is None else _curves(chart)
        figure.update_layout(title=chart.title, template="plotly_white")
        # The library stands in the page once, in front of the first plot.
        parts.append(
            figure.to_html(
                full_html=False, include_plotlyjs=number == 0, config={"displaylogo": False}, div_id=f"plot-{chart.key}"
            )
        )
    parts += map(_table, tables)
    return _PAGE.format(title=html.escape(title), note=html.escape(note), parts="\n".join(parts))


def _curves(chart: Chart) -> "go.Figure":
    """Both axes logarithmic: a power law is a straight line."""
    import plotly.graph_objects as go

    figure = go.Figure()
    for number, series in enumerate(chart.series):
        figure.add_scatter(
            x=series.x,
            y=series.y,
            error_y=_error(series, "y"),
            name=series.name,
            mode="lines+markers",
            marker=dict(symbol=_SYMBOLS[number % len(_SYMBOLS)], size=8),
            line=dict(color=COLOURS[number % len(COLOURS)]),
            hovertemplate="%{y:.4g} " + chart.unit,
        )
    ticks = {x: text.replace("\n", "<br>") for x, text in chart.ticks.items()}
    figure.update_xaxes(type="log", title=chart.axis, tickvals=list(ticks), ticktext=list(ticks.values()))
    figure.update_yaxes(type="log", title=chart.unit, dtick="D2", tickformat="~s" if chart.unit == "images/s" else "~g")
    return figure.update_layout(hovermode="x unified", showlegend=True, height=500)


def _bars(chart: Chart) -> "go.Figure":
    """One below the other, the largest at the top: names are long."""
    import plotly.graph_objects as go

    figure = go.Figure()
    for series in chart.series:
        figure.add_bar(
            x=series.y,
            y=[series.name],
            error_x=_error(series, "x"),
            orientation="h",
            marker_color=COLOURS[0],
            hovertemplate="%{x:.4g} " + chart.unit + "<extra>%{y}</extra>",
        )
    figure.update_xaxes(title=chart.unit, rangemode="tozero")
    figure.update_yaxes(automargin=True)
    return figure.update_layout(showlegend=False, height=180 + 32 * len(chart.series))


def _error(series: Series, axis: str) -> dict[str, object]:
    up = [high - value for high, value in zip(series.high, series.y, strict=True)]
    down = [value - low for low, value in zip(series.low, series.y, strict=True)]
    return dict(type="data", array=up, arrayminus=down, thickness=1, visible=any(up + down))


def _table(table: Table) -> str:
    def line(cells: Sequence[str], tag: str) -> str:
        return "<tr>" + "".join(f"<{tag}>{html.escape(cell)}</{tag}>" for cell in cells) + "</tr>"

    rows = "\n".join([line(table.head, "th"), *(line(row, "td") for row in table.rows)])
    title, note = html.escape(table.title), html.escape(table.note)
    return f'<h2>{title}</h2>\n<div class="wide"><table>\n{rows}\n</table></div>\n<p class="note">{note}</p>'
