"""Reports a cascade: metrics, files in the run directory, a table and a plot of accuracy against MACs."""

import csv
import html
import io
import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from fvit.config.atomic import write_text
from fvit.launch.console import console, print_facts, print_rows
from fvit.reports.web.colours import COLOURS
from fvit.reports.web.document import document, plot
from fvit.tinysaver.cascade import Cascade, Point

_MAX_DRAWN = 2000  # points of a curve
_BLUE, _GREEN, _PINK, _ORANGE, _BLACK = (COLOURS[number] for number in (0, 2, 3, 4, 6))
_GREY = "#8a94a0"


def metrics(cascade: Cascade) -> dict[str, float]:
    """``cascade/NAME/acc1``, ``/macs``, … of the named points; ``cascade/acc1``, … of the one as accurate as large."""
    prefixes = {name: "cascade" if name == "as_accurate" else f"cascade/{name}" for name in _named(cascade)}
    return {
        f"{prefixes[name]}/{key}": value for name, values in _values(cascade).items() for key, value in values.items()
    }


def save(cascade: Cascade, checkpoints: Mapping[str, Path], folder: Path) -> None:
    """Write cascade.csv (all points), cascade.json (the named ones) and cascade.html (the plot).

    Args:
        cascade: of the two models.
        checkpoints: of ``large`` and ``tiny``.
        folder: the run directory.
    """
    text = io.StringIO()
    table = csv.writer(text, lineterminator="\n")
    table.writerow(columns := ("threshold", "passed_on", "share", "right", "acc1", "macs"))
    table.writerows([getattr(point, name) for name in columns] for point in cascade.curve)
    write_text(folder / "cascade.csv", text.getvalue())
    names = {key: str(path) for key, path in checkpoints.items()}
    content = {"checkpoints": names, "images": cascade.images, **_values(cascade)}
    write_text(folder / "cascade.json", json.dumps(content, indent=2))
    write_text(folder / "cascade.html", page(cascade, names))


def print_cascade(cascade: Cascade, folder: Path) -> None:
    """Print the curve in steps of a tenth of the images, and the named points."""
    tenths = [step * cascade.images / 10 for step in range(11)]
    curve = dict.fromkeys(min(cascade.curve, key=lambda point, n=n: abs(point.passed_on - n)) for n in tenths)
    head = ("threshold", "passed on", "acc1", "MACs per image", "saved")
    print_rows("Cascade by threshold", head, [_columns(cascade, point) for point in curve])
    titles = {
        "tiny": "tiny alone",
        "large": "large alone",
        "best": "most accurate",
        "as_accurate": "as accurate as large",
        "held_out": "as accurate, held out",
    }
    points = _named(cascade)
    print_rows("", ("", *head), [(title, *_columns(cascade, points[name])) for name, title in titles.items()])
    held_out = points["held_out"]
    console.print(
        f"The cascade is as accurate as the large model with {_relative_macs(cascade, points['as_accurate'])} of its "
        "MACs. That is optimistic, because the threshold was chosen on the images on which it is measured: chosen on "
        f"one half and measured on the other, it needs {_relative_macs(cascade, held_out)}, with "
        f"{100 * held_out.acc1:.2f} % accuracy instead of {100 * cascade.large.acc1:.2f} %."
    )
    print_facts("", [("all points", str(folder / "cascade.csv")), ("plot", str(folder / "cascade.html"))])


def page(cascade: Cascade, checkpoints: Mapping[str, str]) -> str:
    """An HTML page with the curve, the line between the two models, and the named points."""
    curve, (scale, prefix) = cascade.curve, unit(cascade)
    points = _named(cascade)

    def trace(name: str, drawn: list[Point], title: str = "", **style: Any) -> dict[str, Any]:
        return dict(
            type="scatter",
            x=[point.macs / scale for point in drawn],
            y=[100 * point.acc1 for point in drawn],
            text=[
                f"{title}{100 * point.acc1:.2f} %, {point.macs / scale:,.3f} {prefix}<br>"
                f"{100 * point.share:.1f} % by the large model<br>threshold {show_threshold(point.threshold)}"
                for point in drawn
            ],
            hovertemplate="%{text}<extra></extra>",
            name=name,
            **style,
        )

    def line(name: str, drawn: list[Point], **style: Any) -> dict[str, Any]:
        return trace(name, drawn, mode="lines", line=style)

    def marker(name: str, point: Point, symbol: str, color: str, size: int = 13) -> dict[str, Any]:
        style = dict(symbol=symbol, color=color, size=size, line=dict(width=2, color=color))
        label = f"{name}: {100 * point.acc1:.2f} %, {point.macs / scale:,.3f} {prefix}"
        return trace(label, [point], f"{name}<br>", mode="markers", marker=style)

    thinned = [*curve[: -1 : -(-len(curve) // _MAX_DRAWN)], curve[-1]]
    traces = [
        line("all thresholds", thinned, color=_BLUE, width=3),
        line("as many images, chosen at random", [curve[0], curve[-1]], color=_GREY, width=1.5, dash="dot"),
        marker("tiny alone", points["tiny"], "triangle-up", _ORANGE),
        marker("large alone", points["large"], "square", _BLACK),
        marker("as accurate as large", points["as_accurate"], "circle", _GREEN),
        marker("as accurate, held out", points["held_out"], "circle-open", _GREEN),
        marker("most accurate", points["best"], "diamond-open", _PINK, size=18),
    ]
    accuracy = 100 * cascade.large.acc1
    level = {"type": "line", "xref": "paper", "x0": 0, "x1": 1, "y0": accuracy, "y1": accuracy, "layer": "below"}
    layout = {
        "xaxis": {"title": f"mean MACs per image, {prefix}", "rangemode": "tozero"},
        "yaxis": {"title": "accuracy, %"},
        "shapes": [level | {"line": {"color": _GREY, "width": 1, "dash": "dash"}}],
        "showlegend": True,
    }
    title = f"Cascade: as accurate as the large model with {_relative_macs(cascade, points['as_accurate'])} of its MACs"
    note = "\n".join([*(f"{key}: {path}" for key, path in checkpoints.items()), f"{cascade.images:,} images"])
    body = f'<h1>{title}</h1>\n<p class="note">{html.escape(note)}</p>\n{plot("cascade", height=620)}'
    return document("Cascade", body, {"cascade": {"data": traces, "layout": layout}})


def unit(cascade: Cascade) -> tuple[float, str]:
    """The unit of both models' MACs, and its SI prefix."""
    return (1e9, "G") if cascade.large_macs >= 1e9 else (1e6, "M")


def show_threshold(threshold: float | None) -> str:
    """A threshold as text; one above every probability as "> 1"."""
    if threshold is None:
        return "–"
    return "> 1" if threshold > 1 else f"{threshold:.7g}"


def _named(cascade: Cascade) -> dict[str, Point]:
    return {
        "large": cascade.large,
        "tiny": cascade.tiny,
        "best": cascade.best(),
        "as_accurate": cascade.as_accurate(),
        "held_out": cascade.held_out(),
    }


def _values(cascade: Cascade) -> dict[str, dict[str, float]]:
    """The metrics of the named points; of the models alone, only those that depend on the models."""
    values = {}
    for name, point in _named(cascade).items():
        values[name] = {"acc1": point.acc1, "macs": point.macs}
        if name not in ("large", "tiny"):
            values[name] |= {"share": point.share, "saved": cascade.saved(point)}
            values[name] |= {} if point.threshold is None else {"threshold": point.threshold}
    return values


def _columns(cascade: Cascade, point: Point) -> tuple[str, ...]:
    scale, prefix = unit(cascade)
    return (
        show_threshold(point.threshold),
        f"{100 * point.share:.1f} %",
        f"{100 * point.acc1:.2f} %",
        f"{point.macs / scale:,.3f} {prefix}",
        f"{100 * cascade.saved(point):.1f} %",
    )


def _relative_macs(cascade: Cascade, point: Point) -> str:
    return f"{100 * point.macs / cascade.large_macs:.1f} %"
