"""Accuracy against cost with the front that nobody beats, and against what a sweep varied, as plotly's figures."""

from collections.abc import Iterable, Sequence
from typing import Any

from fvit.reports.runs.flat import show
from fvit.reports.runs.groups import ACCURACY, Group
from fvit.reports.runs.statistics import front
from fvit.reports.web.palette import COLOURS, DASHES, SYMBOLS

Figure = dict[str, Any]

# Key, metric, title, and the factor of its unit, and whether less of it is better.
_COSTS = (
    ("macs", "cost/macs", "multiply-accumulates of an image, M", 1e-6, True),
    ("params", "cost/params", "parameters, M", 1e-6, True),
    ("throughput", "throughput/images_per_s", "images/s in training", 1.0, False),
    ("memory", "memory/peak_gib", "peak memory, GiB", 1.0, True),
)
# More or longer names than these would cover each other.
_NAMED, _LETTERS = 6, 22
# A longer legend would take more room than the plot; what one points at tells its name.
_LEGEND = 12
_TICKS = 8


def styles(groups: Sequence[Group]) -> list[dict[str, str]]:
    """The colour is the attention's; the dash tells a row from others of its attention, the marker tells the model."""
    attentions = list(dict.fromkeys(one.attention for one in groups))
    models = list(dict.fromkeys(one.model for one in groups))
    seen: dict[str, int] = {}
    found = []
    for one in groups:
        number, again = attentions.index(one.attention), seen.get(one.attention, 0)
        seen[one.attention] = again + 1
        # Beyond the palette's end colours come again, and markers tell them apart.
        symbol = models.index(one.model) + number // len(COLOURS)
        found.append(
            {
                "colour": COLOURS[number % len(COLOURS)],
                "dash": DASHES[again % len(DASHES)],
                "symbol": SYMBOLS[symbol % len(SYMBOLS)],
            }
        )
    return found


def pareto(groups: Sequence[Group]) -> dict[str, Figure]:
    """A figure a cost that some row has."""
    figures = {}
    accurate = [one for one in groups if one.estimate(ACCURACY)]
    for key, metric, title, factor, less in _COSTS:
        shown = [(one, cost.mean * factor) for one in accurate if (cost := one.estimate(metric))]
        if shown:
            figures[key] = _pareto(groups, shown, title, less)
    return figures


def scatter(groups: Sequence[Group]) -> dict[str, Figure]:
    """A figure a setting: how accurate each row is at the values it was given."""
    measured = [one for one in groups if one.estimate(ACCURACY)]
    keys = list(dict.fromkeys(key for one in measured for key in one.settings))
    figures = {}
    for key in keys:
        shown = [(one, one.settings[key]) for one in measured if one.settings.get(key) is not None]
        if len({show(value) for _, value in shown}) > 1:
            figures[key] = _scatter(groups, shown, key, joined=len(keys) == 1)
    return figures


def _pareto(groups: Sequence[Group], shown: list[tuple[Group, float]], title: str, less: bool) -> Figure:
    traces = _points(groups, shown, title)
    low, high = min(x for _, x in shown), max(x for _, x in shown)
    axis = _scale([low, high])
    middle = (low * high) ** 0.5 if axis["type"] == "log" else (low + high) / 2
    # Accuracies on other images are no competitors.
    for data in dict.fromkeys(one.data for one, _ in shown):
        those = [(one, x) for one, x in shown if one.data == data]
        points = [(x if less else -x, one.estimate(ACCURACY).mean) for one, x in those]
        best = [those[index] for index in front(points)]
        names = [one.label for one, _ in best]
        if len(names) > _NAMED or max(map(len, names)) > _LETTERS:
            names = None
        traces.append(_front(best, names, middle))
    return _figure(traces, {"title": title, **axis})


def _front(best: list[tuple[Group, float]], names: list[str] | None, middle: float) -> dict[str, Any]:
    return {
        "type": "scatter",
        "mode": "lines+markers+text" if names else "lines+markers",
        "name": "front",
        "x": [x for _, x in best],
        "y": [100 * one.estimate(ACCURACY).mean for one, _ in best],
        "text": names,
        # Beside its error bar, on the side where the plot has room.
        "textposition": ["top left" if x > middle else "top right" for _, x in best],
        "line": {"color": "#8a94a0", "width": 1.2, "dash": "dot", "shape": "hv"},
        "marker": {"symbol": "circle-open", "size": 17, "color": "#8a94a0", "line": {"width": 1.5}},
        "hoverinfo": "skip",
        "cliponaxis": False,
    }


def _scatter(groups: Sequence[Group], shown: list[tuple[Group, Any]], key: str, joined: bool) -> Figure:
    numbers = are_numbers([value for _, value in shown])
    if numbers:
        shown.sort(key=lambda pair: pair[1])
        values = list(dict.fromkeys(value for _, value in shown))
        axis = _scale(values)
        if len(values) <= _TICKS:
            axis |= {"tickmode": "array", "tickvals": values, "ticktext": [show(value) for value in values]}
    else:
        shown = [(one, show(value)) for one, value in shown]
        axis = {"type": "category"}
    traces = _points(groups, shown, key)
    if joined and numbers:
        for trace in traces:
            trace |= {"mode": "lines+markers", "line": {"color": trace["marker"]["color"], "width": 1.5}}
    return _figure(traces, {"title": key, **axis})


def _figure(traces: list[dict[str, Any]], axis: dict[str, Any]) -> Figure:
    layout = {"xaxis": axis, "yaxis": {"title": "validation accuracy, %"}, "showlegend": len(traces) <= _LEGEND}
    return {"data": traces, "layout": layout}


def _points(groups: Sequence[Group], shown: Sequence[tuple[Group, Any]], title: str) -> list[dict[str, Any]]:
    """A trace an attention and model, with error bars where there are intervals."""
    # Plotly takes the name of a category for a number where a format asks for one, and shows NaN.
    place = "%{x:.4~g}" if are_numbers([x for _, x in shown]) else "%{x}"
    style = {id(one): found for one, found in zip(groups, styles(groups), strict=True)}
    several = len({one.model for one in groups}) > 1
    traces: dict[str, dict[str, Any]] = {}
    for one, x in shown:
        accuracy = one.estimate(ACCURACY)
        name = f"{one.attention}, {one.model}" if several else one.attention
        trace = traces.setdefault(
            name,
            {
                "type": "scatter",
                "mode": "markers",
                "name": name,
                "x": [],
                "y": [],
                "text": [],
                "error_y": {"type": "data", "array": [], "thickness": 1, "width": 3},
                "marker": {"color": style[id(one)]["colour"], "symbol": style[id(one)]["symbol"], "size": 9},
                "hovertemplate": f"%{{text}}<br>%{{y:.2f}} % at {place}<extra>{title}</extra>",
            },
        )
        trace["x"].append(x)
        trace["y"].append(100 * accuracy.mean)
        trace["text"].append(one.label)
        trace["error_y"]["array"].append(None if accuracy.half is None else 100 * accuracy.half)
    return list(traces.values())


def are_numbers(values: Iterable[Any]) -> bool:
    """Whether they make a scale; otherwise they are categories."""
    return all(isinstance(value, int | float) and not isinstance(value, bool) for value in values)


def is_logarithmic(values: Sequence[float]) -> bool:
    """Whether a scale is to be: the largest is many times the smallest."""
    low, high = min(values), max(values)
    return low > 0 and high / low >= 8


def _scale(values: Sequence[float]) -> dict[str, Any]:
    return {"type": "log", "dtick": "D2"} if is_logarithmic(values) else {"type": "linear"}
