"""The plots of a benchmark as plotly's figures."""

from typing import Any

from fvit.reports.bench.charts import Chart, Series
from fvit.reports.web.palette import COLOURS, SYMBOLS


def figure(chart: Chart) -> dict[str, Any]:
    """Traces and layout."""
    return _bars(chart) if chart.axis is None else _curves(chart)


def height(chart: Chart) -> int:
    """In pixels: bars need a line each."""
    return 120 + 32 * len(chart.series) if chart.axis is None else 420


def _curves(chart: Chart) -> dict[str, Any]:
    """Both axes logarithmic: a power law is a straight line."""
    traces = [
        {
            "type": "scatter",
            "x": series.x,
            "y": series.y,
            "error_y": _error(series),
            "name": series.name,
            "mode": "lines+markers",
            "marker": {"symbol": SYMBOLS[number % len(SYMBOLS)], "size": 8},
            "line": {"color": COLOURS[number % len(COLOURS)]},
            "hovertemplate": f"%{{y:.4g}} {chart.unit}",
        }
        for number, series in enumerate(chart.series)
    ]
    ticks = {x: text.replace("\n", "<br>") for x, text in chart.ticks.items()}
    form = "~s" if chart.unit == "images/s" else "~g"
    drawn = [y for series in chart.series for y in (*series.low, *series.high)]
    # Within a decade 1, 2 and 5 may be a single tick, or none: there plotly chooses.
    ticks_y = {"dtick": "D2"} if max(drawn) > 10 * min(drawn) else {}
    layout = {
        "xaxis": {"type": "log", "title": chart.axis, "tickvals": list(ticks), "ticktext": list(ticks.values())},
        "yaxis": {"type": "log", "title": chart.unit, "tickformat": form, **ticks_y},
        "hovermode": "x unified",
        "showlegend": True,
    }
    return {"data": traces, "layout": layout}


def _bars(chart: Chart) -> dict[str, Any]:
    """One below the other, the largest at the top: names are long."""
    traces = [
        {
            "type": "bar",
            "x": series.y,
            "y": [series.name],
            "error_x": _error(series),
            "orientation": "h",
            "marker": {"color": COLOURS[0]},
            "hovertemplate": f"%{{x:.4g}} {chart.unit}<extra>%{{y}}</extra>",
        }
        for series in chart.series
    ]
    layout = {"xaxis": {"title": chart.unit, "rangemode": "tozero"}, "yaxis": {}, "showlegend": False}
    return {"data": traces, "layout": layout}


def _error(series: Series) -> dict[str, Any]:
    up = [high - value for high, value in zip(series.high, series.y, strict=True)]
    down = [value - low for low, value in zip(series.low, series.y, strict=True)]
    return {"type": "data", "array": up, "arrayminus": down, "thickness": 1, "visible": any(up + down)}
