"""Plots of accuracy against cost, with the Pareto front, and against the settings of a sweep, for plotly."""

import math
from collections import Counter
from collections.abc import Iterable, Sequence
from typing import Any

from fvit.reports.runs.collect import as_text
from fvit.reports.runs.groups import ACCURACY, Group
from fvit.reports.runs.settings import setting_text
from fvit.reports.web.colours import DASHES, SYMBOLS, Palette

Figure = dict[str, Any]

# Key, metric, axis title, factor that converts to its unit, and whether less is better.
_COSTS = (
    ("macs", "cost/macs", "MACs per image, M", 1e-6, True),
    ("params", "cost/params", "parameters, M", 1e-6, True),
    ("throughput", "throughput/images_per_s", "training throughput, images/s", 1.0, False),
    ("memory", "memory/peak_gib", "peak memory, GiB", 1.0, True),
)
_GREY = "#8a94a0"
# Cividis, least to most accurate, with a darker end that shows on white.
_COLOURSCALE = ((0.0, "#00326E"), (0.5, "#8A8678"), (1.0, "#E0B400"))
# Names of the front are written into the plot if they are as few and as short.
_MAX_NAMES, _MAX_LETTERS = 6, 22
_MAX_LEGEND = 12
_MAX_TICKS = 8


def styles(groups: Sequence[Group], palette: Palette) -> list[dict[str, str]]:
    """Colour by attention, marker by model; dashes distinguish groups with the same colour."""
    models = list(dict.fromkeys(group.model for group in groups))
    seen: dict[str, int] = {}
    found = []
    for group in groups:
        colour = palette.colour(group.attention)
        repeat = seen[colour] = seen.get(colour, -1) + 1
        # Markers change when the colours repeat.
        symbol = models.index(group.model) + palette.turn(group.attention)
        found.append(
            {
                "colour": colour,
                "dash": DASHES[repeat % len(DASHES)],
                "symbol": SYMBOLS[symbol % len(SYMBOLS)],
            }
        )
    return found


def pareto_plots(groups: Sequence[Group], palette: Palette) -> dict[str, Figure]:
    """Accuracy against each cost that was measured."""
    figures = {}
    for key, metric, title, factor, less_is_better in _COSTS:
        costs = [(group, cost.mean * factor) for group in _accurate(groups) if (cost := group.mean(metric))]
        if costs:
            figures[key] = _pareto_plot(groups, palette, costs, title, less_is_better)
    return figures


def pareto_front(points: Sequence[tuple[float, float]]) -> list[int]:
    """Indices of the points (cost, gain) that are not dominated, by increasing cost.

    One dominates another if it costs no more and gains no less, and is strictly better in one of the two.
    """
    best, last, front = -math.inf, None, []
    for index in sorted(range(len(points)), key=lambda i: (points[i][0], -points[i][1])):
        if points[index][1] > best or points[index] == last:
            best, last = points[index][1], points[index]
            front.append(index)
    return front


def setting_plots(groups: Sequence[Group], palette: Palette) -> dict[str, Figure]:
    """Accuracy against each setting that was varied."""
    keys = _varied(groups)
    return {key: _setting_plot(groups, palette, _with_setting(groups, key), key, joined=len(keys) == 1) for key in keys}


def parallel_plot(groups: Sequence[Group]) -> Figure | None:
    """Parallel coordinates: a line per group through its settings to its accuracy; None for fewer than two settings."""
    shown = _accurate(groups)[::-1]  # the most accurate are drawn last, on top
    settings = {key: [group.settings.get(key) for group in shown] for key in _varied(groups)}
    attentions = [group.attention for group in shown]
    if len(set(attentions)) > 1:
        settings = {"attention": attentions, **settings}
    accuracy = [100 * group.mean(ACCURACY).mean for group in shown]
    if len(settings) < 2 or min(accuracy) == max(accuracy):
        return None
    short = {"attention": "attention", **shown[0].names}
    axes = [{"label": short[key], **_parallel_axis(values)} for key, values in settings.items()]
    axes.append({"label": "accuracy, %", "values": accuracy, "tickformat": ".4~g"})
    margin = 20 + 7 * max(map(len, axes[0].get("ticktext", [""])))
    trace = {
        "type": "parcoords",
        "dimensions": axes,
        "line": {"color": accuracy, "colorscale": _COLOURSCALE},
        "labelfont": {"size": 12.5},
        "tickfont": {"size": 11.5},
    }
    return {"data": [trace], "layout": {"margin": {"l": margin, "r": 44, "t": 44, "b": 24}}}


def _accurate(groups: Sequence[Group]) -> list[Group]:
    return [group for group in groups if group.mean(ACCURACY)]


def _varied(groups: Sequence[Group]) -> list[str]:
    """The settings worth an axis: not those in which one or two runs differ from all the others."""
    found = []
    for key in groups[0].settings if groups else ():
        values = [as_text(value) for _, value in _with_setting(groups, key)]
        if len(set(values)) > 2 or (len(set(values)) == 2 and min(Counter(values).values()) * 4 >= len(values)):
            found.append(key)
    return found


def _with_setting(groups: Sequence[Group], key: str) -> list[tuple[Group, Any]]:
    return [(one, one.settings[key]) for one in _accurate(groups) if one.settings[key] is not None]


def _parallel_axis(values: Sequence[Any]) -> dict[str, Any]:
    """Few values and names are evenly spaced; many numbers are to scale, logarithmic over a decade or more."""
    numeric = are_numbers(values)
    distinct = sorted(set(values)) if numeric else list(dict.fromkeys(map(as_text, values)))
    if numeric and len(distinct) > _MAX_TICKS:
        if not _spans_decades(values):
            return {"values": list(values)}
        powers = range(math.floor(math.log10(distinct[0])), math.ceil(math.log10(distinct[-1])) + 1)
        return {
            "values": [math.log10(value) for value in values],
            "range": [powers[0], powers[-1]],
            "tickvals": list(powers),
            "ticktext": [as_text(10.0**power) for power in powers],
        }
    place = {value: index for index, value in enumerate(distinct)}
    return {
        "values": [place[value if numeric else as_text(value)] for value in values],
        "tickvals": list(place.values()),
        "ticktext": list(map(as_text, place)),
    }


def _pareto_plot(
    groups: Sequence[Group], palette: Palette, costs: list[tuple[Group, float]], title: str, less_is_better: bool
) -> Figure:
    traces = _points(groups, palette, costs, title)
    low, high = min(x for _, x in costs), max(x for _, x in costs)
    axis = _scale([low, high])
    middle = math.sqrt(low * high) if axis["type"] == "log" else (low + high) / 2
    points = [(x if less_is_better else -x, group.mean(ACCURACY).mean) for group, x in costs]
    traces.append(_front_trace([costs[index] for index in pareto_front(points)], middle))
    return _figure(traces, {"title": title, **axis})


def _front_trace(front: list[tuple[Group, float]], middle: float) -> dict[str, Any]:
    names = [group.label for group, _ in front]
    named = len(names) <= _MAX_NAMES and max(map(len, names)) <= _MAX_LETTERS
    return {
        "type": "scatter",
        "mode": "lines+markers+text" if named else "lines+markers",
        "name": "Pareto front",
        "x": [x for _, x in front],
        "y": [100 * group.mean(ACCURACY).mean for group, _ in front],
        "text": names if named else None,
        # Next to the error bar, on the side that has room.
        "textposition": ["top left" if x > middle else "top right" for _, x in front],
        "line": {"color": _GREY, "width": 1.2, "dash": "dot", "shape": "hv"},
        "marker": {"symbol": "circle-open", "size": 17, "color": _GREY, "line": {"width": 1.5}},
        "hoverinfo": "skip",
        "cliponaxis": False,
    }


def _setting_plot(
    groups: Sequence[Group], palette: Palette, values: list[tuple[Group, Any]], key: str, joined: bool
) -> Figure:
    numeric = are_numbers(value for _, value in values)
    if numeric:
        values.sort(key=lambda pair: pair[1])
        distinct = list(dict.fromkeys(value for _, value in values))
        axis = _scale(distinct)
        if len(distinct) <= _MAX_TICKS:
            axis |= {"tickmode": "array", "tickvals": distinct, "ticktext": list(map(as_text, distinct))}
    else:
        values = [(group, setting_text(value)) for group, value in values]
        axis = {"type": "category"}
    traces = _points(groups, palette, values, key)
    if joined and numeric:
        for trace in traces:
            trace |= {"mode": "lines+markers", "line": {"color": trace["marker"]["color"], "width": 1.5}}
    return _figure(traces, {"title": key, **axis})


def _figure(traces: list[dict[str, Any]], axis: dict[str, Any]) -> Figure:
    layout = {"xaxis": axis, "yaxis": {"title": "validation accuracy, %"}, "showlegend": len(traces) <= _MAX_LEGEND}
    return {"data": traces, "layout": layout}


def _points(
    groups: Sequence[Group], palette: Palette, shown: Sequence[tuple[Group, Any]], title: str
) -> list[dict[str, Any]]:
    """A trace per attention and model, with error bars where there are intervals."""
    # With a number format plotly shows the name of a category as NaN.
    x_text = "%{x:.4~g}" if are_numbers(x for _, x in shown) else "%{x}"
    style = {id(group): found for group, found in zip(groups, styles(groups, palette), strict=True)}
    traces: dict[str, dict[str, Any]] = {}
    for group, x in shown:
        name = f"{group.attention}, {group.model}" if group.several_models else group.attention
        colour, symbol = style[id(group)]["colour"], style[id(group)]["symbol"]
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
                "marker": {"color": colour, "symbol": symbol, "size": 9},
                "hovertemplate": f"%{{text}}<br>%{{y:.2f}} % at {x_text}<extra>{title}</extra>",
            },
        )
        accuracy = group.mean(ACCURACY)
        trace["x"].append(x)
        trace["y"].append(100 * accuracy.mean)
        trace["text"].append(group.label)
        trace["error_y"]["array"].append(None if accuracy.half_width is None else 100 * accuracy.half_width)
    return list(traces.values())


def are_numbers(values: Iterable[Any]) -> bool:
    """Otherwise they are categories."""
    return all(isinstance(value, int | float) and not isinstance(value, bool) for value in values)


def _spans_decades(values: Sequence[float]) -> bool:
    return min(values) > 0 and max(values) / min(values) >= 8


def _scale(values: Sequence[float]) -> dict[str, Any]:
    return {"type": "log", "dtick": "D2"} if _spans_decades(values) else {"type": "linear"}
