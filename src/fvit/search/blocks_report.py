"""The results of a search over blocks: a table, blocks.csv and blocks.html, accuracy against MACs."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from fvit.config.atomic import write_text
from fvit.launch.console import print_facts, print_rows
from fvit.reports.runs.groups import MeanCI, mean_ci
from fvit.reports.web.colours import COLOURS
from fvit.reports.web.document import document, plot
from fvit.reports.web.tables import Table, to_csv

LOSS, ACCURACY, MACS = "val/loss", "val/acc1", "cost/macs"
"""The metrics of a job that are read; blocks are ranked by the mean of the first."""

_BLUE, _BLACK, _GREY = COLOURS[0], COLOURS[6], "#8a94a0"
_HEAD = ["round", "exchanged", "val loss", "val acc1", "MACs"]


@dataclass(frozen=True)
class Tried:
    """One set of exchanged blocks, and the metrics of its jobs."""

    blocks: tuple[int, ...]  # in the order in which they were exchanged; the last is what its round tried
    jobs: tuple[Mapping[str, float], ...]

    def mean(self, metric: str) -> MeanCI:
        return mean_ci([job[metric] for job in self.jobs])

    @property
    def name(self) -> str:
        """The blocks that stay exchanged, and the one that this round tried."""
        if not self.blocks:
            return "none"
        before = ", ".join(map(str, sorted(self.blocks[:-1])))
        return f"{before} + {self.blocks[-1]}" if before else str(self.blocks[-1])


def print_round(number: int, found: Sequence[Tried]) -> None:
    """Print the sets of a round, best first."""
    title = f"Round {number}: one block more, best first" if number else "Without an exchange"
    print_rows(title, _HEAD[1:], [_columns(tried) for tried in found])


def save(rounds: Sequence[Sequence[Tried]], folder: Path) -> None:
    """Write blocks.csv, all sets of blocks, and blocks.html with the plot; print the order of the blocks.

    Args:
        rounds: the sets of each round, best first; the first round is the model without an exchange.
        folder: of the sweep.
    """
    records = [
        {
            "round": number,
            "blocks": " ".join(map(str, sorted(tried.blocks))),
            "tried": tried.blocks[-1] if tried.blocks else None,
            "kept": int(place == 0),
            MACS: tried.mean(MACS).mean,
            **_cells(tried, LOSS),
            **_cells(tried, ACCURACY),
            "jobs": len(tried.jobs),
        }
        for number, found in enumerate(rounds)
        for place, tried in enumerate(found)
    ]
    write_text(folder / "blocks.csv", to_csv(records))
    write_text(folder / "blocks.html", page(rounds))
    best = [found[0] for found in rounds]
    print_rows("Exchanged so far, the cheapest block first", _HEAD[1:], [_columns(tried) for tried in best])
    print_facts("", [("all sets", str(folder / "blocks.csv")), ("plot", str(folder / "blocks.html"))])


def page(rounds: Sequence[Sequence[Tried]]) -> str:
    """An HTML page with a point for each set of blocks, the greedy path among them, and the table."""
    every = [tried for found in rounds for tried in found]
    scale, prefix = (1e9, "G") if max(tried.mean(MACS).mean for tried in every) >= 1e9 else (1e6, "M")

    def trace(name: str, drawn: Sequence[Tried], **style: Any) -> dict[str, Any]:
        accuracy = [tried.mean(ACCURACY) for tried in drawn]
        return dict(
            type="scatter",
            name=name,
            x=[tried.mean(MACS).mean / scale for tried in drawn],
            y=[100 * value.mean for value in accuracy],
            text=["<br>".join([f"exchanged: {tried.name}", *_columns(tried)[1:]]) for tried in drawn],
            hovertemplate="%{text}<extra></extra>",
            **style,
        )

    path = [found[0] for found in rounds]
    widths = [100 * (tried.mean(ACCURACY).half_width or 0.0) for tried in path]
    traces = [
        trace("tried", every, mode="markers", marker=dict(color=_GREY, size=7)),
        trace(
            "exchanged, one after another",
            path,
            mode="lines+markers",
            line=dict(color=_BLUE, width=2),
            marker=dict(color=_BLUE, size=10),
            error_y=dict(type="data", array=widths, color=_BLUE, thickness=1, visible=any(widths)),
        ),
        trace("without an exchange", rounds[0], mode="markers", marker=dict(color=_BLACK, size=12, symbol="square")),
    ]
    layout = {
        "xaxis": {"title": f"MACs per image, {prefix}"},
        "yaxis": {"title": "validation accuracy, %"},
        "showlegend": True,
    }
    rows = [[str(number), *_columns(tried)] for number, found in enumerate(rounds) for tried in found]
    jobs = len(every[0].jobs)
    note = f"means over {jobs} runs, with 95 % confidence intervals" if jobs > 1 else "one run per set of blocks"
    body = (
        f'<h1>Which blocks can be exchanged</h1>\n<p class="note">In each round, the block whose exchange has the '
        f"lowest validation loss is kept; {note}.</p>\n{plot('blocks', height=520)}\n"
        f"{Table(_HEAD, rows, words=frozenset({1})).to_html()}"
    )
    return document("Which blocks can be exchanged", body, {"blocks": {"data": traces, "layout": layout}})


def _columns(tried: Tried) -> list[str]:
    loss, accuracy = tried.mean(LOSS), tried.mean(ACCURACY)
    return [
        tried.name,
        _with_interval(loss, "{:.3f}"),
        f"{_with_interval(MeanCI(100 * accuracy.mean, _times(accuracy.half_width, 100), accuracy.n), '{:.2f}')} %",
        f"{tried.mean(MACS).mean / 1e6:,.4g} M",
    ]


def _cells(tried: Tried, metric: str) -> dict[str, float | None]:
    value = tried.mean(metric)
    return {metric: value.mean, f"{metric} ±": value.half_width}


def _with_interval(value: MeanCI, form: str) -> str:
    text = form.format(value.mean)
    return text if value.half_width is None else f"{text} ± {form.format(value.half_width)}"


def _times(value: float | None, factor: float) -> float | None:
    return None if value is None else value * factor
