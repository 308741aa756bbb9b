"""The plot of a cascade, accuracy against MACs, as a page that opens offline."""

import html
from typing import Any

from fvit.cascade.cascade import Cascade, Point
from fvit.reports.web.document import document, plot
from fvit.reports.web.palette import COLOURS

# Points that are drawn of a curve; more of them are no finer on a screen.
_DRAWN = 2000
_BLUE, _GREEN, _PINK, _ORANGE, _BLACK = (COLOURS[number] for number in (0, 2, 3, 4, 6))
_GREY = "#8a94a0"


def unit(cascade: Cascade) -> tuple[float, str]:
    """What MACs are told in, for both models alike: billions or millions."""
    return (1e9, "G") if cascade.large_macs >= 1e9 else (1e6, "M")


def show_threshold(threshold: float | None) -> str:
    """A threshold for people: none that a probability reaches is above 1."""
    if threshold is None:
        return "–"
    return "> 1" if threshold > 1 else f"{threshold:.7g}"


def draw(cascade: Cascade, names: tuple[str, str]) -> str:
    """The page: the curve, what a coin in place of the confidence would give, and the points that have a name.

    Args:
        cascade: of the two models.
        names: of the large and of the tiny model.
    """
    curve = cascade.curve
    drawn, at_random = [*curve[: -1 : -(-len(curve) // _DRAWN)], curve[-1]], [curve[0], curve[-1]]
    traces = [
        _line(cascade, "every threshold", drawn, color=_BLUE, width=3),
        _line(cascade, "as many images, drawn at random", at_random, color=_GREY, width=1.5, dash="dot"),
        _marker(cascade, "tiny alone", cascade.tiny, symbol="triangle-up", color=_ORANGE),
        _marker(cascade, "large alone", cascade.large, symbol="square", color=_BLACK),
        _marker(cascade, "as accurate as the large", cascade.as_accurate(), symbol="circle", color=_GREEN),
        _marker(cascade, "… its threshold on other images", cascade.held_out(), symbol="circle-open", color=_GREEN),
        _marker(cascade, "most accurate", cascade.best(), symbol="diamond-open", color=_PINK, size=18),
    ]
    level = 100 * cascade.large.acc1
    line = {"type": "line", "xref": "paper", "x0": 0, "x1": 1, "y0": level, "y1": level, "layer": "below"}
    layout = {
        "xaxis": {"title": f"mean multiply-accumulates an image, {unit(cascade)[1]}", "rangemode": "tozero"},
        "yaxis": {"title": "accuracy, %"},
        "shapes": [line | {"line": {"color": _GREY, "width": 1, "dash": "dash"}}],
        "showlegend": True,
    }
    needed = 100 * cascade.as_accurate().macs / cascade.large_macs
    title = f"Tiny model first, large one where it is unsure: as accurate at {needed:.1f} % of the MACs"
    note = f"large: {names[0]}\ntiny: {names[1]}\n{cascade.images:,} images"
    body = f'<h1>{title}</h1>\n<p class="note">{html.escape(note)}</p>\n{plot("cascade", height=620)}'
    return document("Cascade", body, {"cascade": {"data": traces, "layout": layout}})


def _line(cascade: Cascade, name: str, points: list[Point], **line: Any) -> dict[str, Any]:
    scale, _ = unit(cascade)
    return dict(
        type="scatter",
        mode="lines",
        x=[point.macs / scale for point in points],
        y=[100 * point.acc1 for point in points],
        text=[_hover(cascade, point) for point in points],
        hovertemplate="%{text}",
        name=name,
        line=line,
    )


def _marker(cascade: Cascade, name: str, point: Point, size: int = 13, **marker: Any) -> dict[str, Any]:
    scale, letter = unit(cascade)
    return dict(
        type="scatter",
        mode="markers",
        x=[point.macs / scale],
        y=[100 * point.acc1],
        text=[_hover(cascade, point)],
        hovertemplate=f"{name}<br>%{{text}}",
        name=f"{name}: {100 * point.acc1:.2f} %, {point.macs / scale:,.3f} {letter}",
        marker=dict(size=size, line=dict(width=2, color=marker["color"]), **marker),
    )


def _hover(cascade: Cascade, point: Point) -> str:
    scale, letter = unit(cascade)
    return (
        f"{100 * point.acc1:.2f} %, {point.macs / scale:,.3f} {letter}<br>{100 * point.share:.1f} % by the large model"
        f"<br>threshold {show_threshold(point.threshold)}<extra></extra>"
    )
