"""The plot of a cascade, accuracy against MACs, as a page that opens offline."""

from typing import Any

from fvit.cost.cascade import Cascade, Point

# Points that are drawn of a curve; more of them are no finer on a screen.
_DRAWN = 2000
_PAGE = """<!doctype html>
<html lang="en">
<meta charset="utf-8">
<title>Cascade</title>
<style>body {{ margin: 0 }}</style>
{plot}
</html>
"""
# Colours that stay apart for the colour-blind (Okabe and Ito).
_BLUE, _ORANGE, _GREEN, _PINK, _BLACK = "#0072B2", "#E69F00", "#009E73", "#CC79A7", "#000000"


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
    import plotly.graph_objects as go

    curve = cascade.curve
    drawn, at_random = [*curve[: -1 : -(-len(curve) // _DRAWN)], curve[-1]], [curve[0], curve[-1]]
    figure = go.Figure(
        [
            _line(cascade, "every threshold", drawn, color=_BLUE, width=3),
            _line(cascade, "as many images, drawn at random", at_random, color="grey", width=1.5, dash="dot"),
            _marker(cascade, "tiny alone", cascade.tiny, symbol="triangle-up", color=_ORANGE),
            _marker(cascade, "large alone", cascade.large, symbol="square", color=_BLACK),
            _marker(cascade, "as accurate as the large", cascade.as_accurate(), symbol="circle", color=_GREEN),
            _marker(cascade, "… its threshold on other images", cascade.held_out(), symbol="circle-open", color=_GREEN),
            _marker(cascade, "most accurate", cascade.best(), symbol="diamond-open", color=_PINK, size=18),
        ]
    )
    needed = 100 * cascade.as_accurate().macs / cascade.large_macs
    figure.add_hline(100 * cascade.large.acc1, line=dict(color="grey", width=1, dash="dash"), layer="below")
    figure.update_layout(
        template="plotly_white",
        title=dict(
            text=f"Tiny model first, large one where it is unsure: as accurate at {needed:.1f} % of the MACs",
            subtitle=dict(text=f"large: {names[0]} · tiny: {names[1]} · {cascade.images:,} images"),
        ),
        xaxis=dict(title=f"mean multiply-accumulates an image, {unit(cascade)[1]}", rangemode="tozero"),
        yaxis=dict(title="accuracy, %"),
        legend=dict(x=1, y=0, xanchor="right", yanchor="bottom"),
        hoverlabel=dict(align="left"),
    )
    plot = figure.to_html(
        config={"displaylogo": False}, full_html=False, default_height="100vh", div_id="cascade", include_plotlyjs=True
    )
    return _PAGE.format(plot=plot)


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
