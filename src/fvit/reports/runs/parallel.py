"""Parallel coordinates: a line a row through what it was set to and how accurate it became.

Plotly's own kind needs WebGL, which not every browser has at hand; these are lines as any other plot's.
"""

import math
from collections.abc import Callable, Sequence
from typing import Any

from fvit.reports.runs.flat import show
from fvit.reports.runs.groups import ACCURACY, Group, short_names
from fvit.reports.runs.plots import are_numbers, is_logarithmic

# From the least accurate to the most: cividis, which reads the same to the colour-blind; its end is darker, for paper.
_SCALE = ("#00326E", "#3E4E6C", "#666970", "#8A8678", "#B3A76F", "#CDB44E", "#E0B400")
# More values than these have no text each; texts that are closer, as a share of the axis, cover each other.
_TICKS, _ROOM = 8, 0.06


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
    axes.append(_linear(accuracy, "{:.2f}".format))
    short = short_names(columns)
    heads = [*short.values(), "accuracy, %"]
    traces = _lines(shown, accuracy, [places for places, _ in axes])
    last = len(axes) - 1
    annotations = [
        _text(place, height, text, place == last, 6)
        for place, (_, ticks) in enumerate(axes)
        for text, height in ticks.items()
    ]
    annotations += [_text(place, 1.1, f"<b>{head}</b>", place == last, 0) for place, head in enumerate(heads)]
    posts = [
        {"type": "line", "x0": i, "x1": i, "y0": 0, "y1": 1, "line": {"color": "#8a94a0", "width": 1}, "layer": "above"}
        for i in range(len(axes))
    ]
    layout = {
        "xaxis": {"visible": False, "range": [-0.02, last + 0.02]},
        "yaxis": {"visible": False, "range": [-0.05, 1.15]},
        "annotations": annotations,
        "shapes": posts,
        "showlegend": False,
        "hovermode": "closest",
        "margin": {"l": 8, "r": 8, "t": 8, "b": 8},
    }
    return {"data": traces, "layout": layout}


def _lines(
    shown: Sequence[Group], accuracy: Sequence[float], places: Sequence[Sequence[float]]
) -> list[dict[str, Any]]:
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


def _text(place: int, height: float, text: str, to_left: bool, shift: int) -> dict[str, Any]:
    side = {"xanchor": "right", "xshift": -shift} if to_left else {"xanchor": "left", "xshift": shift}
    return {"x": place, "y": height, "text": text, "showarrow": False, "font": {"size": 11.5}, **side}


def _axis(values: Sequence[Any]) -> tuple[list[float], dict[str, float]]:
    """Each value's place from 0 to 1, and the texts beside the axis with theirs."""
    if are_numbers(values):
        return _logarithmic(values) if is_logarithmic(values) else _linear(values, show)
    names = list(dict.fromkeys(map(show, values)))
    heights = {name: index / (len(names) - 1) for index, name in enumerate(names)}
    return [heights[show(value)] for value in values], heights


def _linear(values: Sequence[float], text: Callable[[float], str]) -> tuple[list[float], dict[str, float]]:
    low, high = min(values), max(values)
    return [(value - low) / (high - low) for value in values], {text(low): 0.0, text(high): 1.0}


def _logarithmic(values: Sequence[float]) -> tuple[list[float], dict[str, float]]:
    """The texts are both ends and, where there is room, the values between them, or powers of ten for many."""
    low, high = min(values), max(values)
    place = {value: math.log(value / low) / math.log(high / low) for value in values}
    tens = [10.0**power for power in range(math.ceil(math.log10(low)), math.floor(math.log10(high)) + 1)]
    between = sorted(place) if len(place) <= _TICKS else tens
    heights = {show(low): 0.0, show(high): 1.0}
    for value in between:
        height = math.log(value / low) / math.log(high / low)
        if all(abs(height - other) >= _ROOM for other in heights.values()):
            heights[show(value)] = height
    return [place[value] for value in values], heights
