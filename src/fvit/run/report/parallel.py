"""Parallel coordinates: a line a row through what it was set to and how accurate it became.

Plotly's own kind needs WebGL, which not every browser has at hand; these are lines as any other plot's.
"""

from collections.abc import Sequence
from typing import Any

from fvit.run.report.flat import show
from fvit.run.report.groups import ACCURACY, Group

# From the least accurate to the most: cividis, which reads the same to the colour-blind.
_SCALE = ("#00326E", "#3E4E6C", "#666970", "#8A8678", "#B3A76F", "#D9C55C", "#FDE333")


def parallel(groups: Sequence[Group]) -> dict[str, Any] | None:
    """The figure; None where rows differ in fewer than two things."""
    shown = [one for one in groups if one.estimate(ACCURACY)]
    names = list(dict.fromkeys(key for one in shown for key in one.settings))
    columns = {name: [one.settings.get(name) for one in shown] for name in names}
    columns = {"attention": [one.attention for one in shown], **columns}
    columns = {name: values for name, values in columns.items() if len(set(map(show, values))) > 1}
    accuracy = [100 * one.estimate(ACCURACY).mean for one in shown]
    if len(columns) < 2 or min(accuracy) == max(accuracy):
        return None
    axes = [_axis(values) for values in columns.values()]
    axes.append(_axis(accuracy, "{:.2f}"))
    heads = [*columns, "accuracy, %"]
    traces = _lines(shown, accuracy, [places for places, _ in axes])
    annotations = [
        {
            "x": place,
            "y": height,
            "text": text,
            "showarrow": False,
            "xanchor": "right" if place == len(axes) - 1 else "left",
            "xshift": -6 if place == len(axes) - 1 else 6,
            "bgcolor": "var(--page)",
            "font": {"size": 11},
        }
        for place, (_, ticks) in enumerate(axes)
        for text, height in ticks.items()
    ]
    posts = [
        {"type": "line", "x0": i, "x1": i, "y0": 0, "y1": 1, "line": {"color": "#8a94a0", "width": 1}, "layer": "above"}
        for i in range(len(axes))
    ]
    layout = {
        "xaxis": {"tickvals": list(range(len(axes))), "ticktext": heads, "showgrid": False, "zeroline": False, "side": "top"},
        "yaxis": {"visible": False, "range": [-0.05, 1.05]},
        "annotations": annotations,
        "shapes": posts,
        "showlegend": False,
        "hovermode": "closest",
        "margin": {"l": 14, "r": 14, "t": 34, "b": 8},
    }
    return {"data": traces, "layout": layout}


def _lines(shown: Sequence[Group], accuracy: Sequence[float], places: Sequence[Sequence[float]]) -> list[dict[str, Any]]:
    """A trace a colour: the lines of several rows in it have gaps between them. The most accurate lie on top."""
    low, high = min(accuracy), max(accuracy)
    traces = [
        {
            "type": "scatter",
            "mode": "lines",
            "x": [],
            "y": [],
            "text": [],
            "line": {"color": colour, "width": 1.6},
            "hovertemplate": "%{text}<extra></extra>",
        }
        for colour in _SCALE
    ]
    for row, (one, value) in enumerate(zip(shown, accuracy, strict=True)):
        trace = traces[min(len(_SCALE) - 1, int((value - low) / (high - low) * len(_SCALE)))]
        trace["x"] += [*range(len(places)), None]
        trace["y"] += [*(place[row] for place in places), None]
        trace["text"] += [f"{one.label}: {value:.2f} %"] * len(places) + [None]
    return [trace for trace in traces if trace["x"]]


def _axis(values: Sequence[Any], form: str = "") -> tuple[list[float], dict[str, float]]:
    """Each value's place from 0 to 1, and the texts beside the axis with theirs."""
    if all(isinstance(value, int | float) and not isinstance(value, bool) for value in values):
        low, high = min(values), max(values)
        ends = {form.format(value) if form else show(value): (value - low) / (high - low) for value in (low, high)}
        return [(value - low) / (high - low) for value in values], ends
    names = list(dict.fromkeys(map(show, values)))
    heights = {name: index / (len(names) - 1) for index, name in enumerate(names)}
    return [heights[show(value)] for value in values], heights
