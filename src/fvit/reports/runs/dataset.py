"""The part of the report on one dataset: leaderboard, learning curves, accuracy against cost and settings."""

import html
from typing import Any, NamedTuple

from fvit.reports.runs.curves import METRICS, mean_curves
from fvit.reports.runs.groups import Ranking
from fvit.reports.runs.plots import Figure, parallel_plot, pareto_plots, setting_plots, styles
from fvit.reports.runs.tables import common_text, leaderboard, metrics_of, notes
from fvit.reports.web.colours import Palette
from fvit.reports.web.document import plot

_COST_TITLES = {"macs": "MACs", "params": "Parameters", "throughput": "Throughput", "memory": "Memory"}


class Section(NamedTuple):
    """A section of the page.

    Attributes:
        name: id.
        title: heading.
        content: HTML.
        linked: whether the top of the page has a link to it.
    """

    name: str
    title: str
    content: str
    linked: bool = True


def dataset_sections(
    number: int, ranking: Ranking, baseline: str, palette: Palette, figures: dict[str, Figure], alone: bool
) -> list[Section]:
    """The sections on the dataset with this number; their plots are added to `figures`.

    Unless it is `alone`, its name is in their titles, and only the leaderboard is linked.
    """
    parts = {
        "ranking": ("Leaderboard", _boards(number, ranking, baseline)),
        "learning": ("Learning curves", _curves(number)),
        "cost": ("Accuracy against cost", _costs(number, ranking, palette, figures)),
        "settings": ("Settings", _settings(number, ranking, palette, figures)),
    }
    return [
        Section(f"{name}-{number}", title if alone else f"{title}: {ranking.data}", content, alone or name == "ranking")
        for name, (title, content) in parts.items()
        if content
    ]


def curve_data(ranking: Ranking, palette: Palette) -> dict[str, Any]:
    """What the page's script draws the learning curves from: names, styles and means of the groups."""
    found = zip(ranking.groups, styles(ranking.groups, palette), strict=True)
    return {"rows": [{"name": group.label, **style} for group, style in found], "curves": mean_curves(ranking.groups)}


def filter_box(name: str, example: str, choice: str = "") -> str:
    """The field that filters the tables called `name`, behind a further `choice`."""
    return (
        f'<p class="tools choice">{choice}<input type="search" data-filter="{name}" placeholder="Filter: {example}" '
        f'aria-label="Filter the table"> <output data-count="{name}"></output></p>'
    )


def radio_buttons(name: str, titles: dict[str, str]) -> str:
    """One per value, the first is checked."""
    first = next(iter(titles))
    return "".join(
        f'<label><input type="radio" name="{name}" value="{value}"{" checked" * (value == first)}>{title}</label>'
        for value, title in titles.items()
    )


def _boards(number: int, ranking: Ranking, baseline: str) -> str:
    """A table per metric, of which one is shown."""
    name = f"board-{number}"
    metrics = metrics_of(ranking)
    choice = radio_buttons(name, {metric.key: metric.title for metric in metrics}) if len(metrics) > 1 else ""
    parts = [filter_box(name, "additive lr=0.001", choice)]
    for place, metric in enumerate(metrics):
        groups = ranking.ranked(metric.key, metric.less_is_better)
        rows = [ranking.groups.index(group) for group in groups]
        table = leaderboard(ranking, baseline, metric).to_html(f"leaderboard-{number}-{place}", numbers=rows)
        hidden = " hidden" * (place > 0)
        parts.append(
            f'<div class="wide tall board" data-board="{name}" data-metric="{metric.key}"{hidden}>{table}</div>'
        )
    shown = filter(None, [common_text(ranking), *notes([ranking])])
    return "\n".join([*parts, *(f'<p class="note">{html.escape(note)}</p>' for note in shown)])


def _curves(number: int) -> str:
    choices = radio_buttons(f"curve-{number}", {key: title for key, title, _ in METRICS})
    return (
        f'<p class="tools choice">{choices}</p>\n<p class="note" id="curves-note-{number}"></p>\n'
        f"{plot(f'curves-{number}', 460)}"
    )


def _costs(number: int, ranking: Ranking, palette: Palette, figures: dict[str, Figure]) -> str:
    costs = pareto_plots(ranking.groups, palette)
    if not costs:
        return ""
    figures |= {f"cost-{number}-{key}": figure for key, figure in costs.items()}
    plots = "\n".join(plot(f"cost-{number}-{key}", 400, _COST_TITLES[key]) for key in costs)
    note = "Rings mark the Pareto front: no other row is both cheaper and more accurate. Error bars: 95 % CI."
    if any((group.config.get("trainer") or {}).get("accelerator") == "cpu" for group in ranking.groups):
        note += " Memory on a CPU: peak of the whole process."
    return f'<p class="note">{note}</p>\n<div class="plots">{plots}</div>'


def _settings(number: int, ranking: Ranking, palette: Palette, figures: dict[str, Figure]) -> str:
    by_setting = setting_plots(ranking.groups, palette)
    if not by_setting:
        return ""
    figures |= {f"setting-{number}-{place}": figure for place, figure in enumerate(by_setting.values())}
    plots = "\n".join(plot(f"setting-{number}-{place}", 360, key) for place, key in enumerate(by_setting))
    content = f'<div class="plots">{plots}</div>'
    if parallel := parallel_plot(ranking.groups):
        figures[f"parallel-{number}"] = parallel
        # Closed: it needs WebGL, without which a browser may draw none of the plots in view.
        content += (
            "\n<details><summary>All settings in parallel coordinates</summary>\n"
            '<p class="note">One line per row of the leaderboard, from blue (least accurate) to yellow (most '
            "accurate). Drag along an axis to select lines, and an axis title to move it.</p>\n"
            f'<div class="scroll">{plot(f"parallel-{number}", 400)}</div></details>'
        )
    return content
