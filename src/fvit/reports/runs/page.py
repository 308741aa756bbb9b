"""report.html: leaderboard, curves, plots, benchmarks, all runs and their configs in one page."""

import datetime
import html
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from fvit.config.flatten import flatten
from fvit.reports.bench.charts import Benchmark, draw_charts
from fvit.reports.runs.collect import Run, as_text
from fvit.reports.runs.curves import METRICS, mean_curves
from fvit.reports.runs.files import count_runs
from fvit.reports.runs.groups import Group
from fvit.reports.runs.plots import Figure, parallel_plot, pareto_plots, setting_plots, styles
from fvit.reports.runs.tables import NOTE, run_table, when
from fvit.reports.web.document import document, plot, read_file
from fvit.reports.web.tables import Table

# Id, title and HTML of a section; None if it would be empty.
Section = tuple[str, str, str] | None

_HERE = Path(__file__).parent
_COST_TITLES = {"macs": "MACs", "params": "Parameters", "throughput": "Throughput", "memory": "Memory"}
# In the column of a key that a run lacks.
_MISSING = -1


def render_report(
    source: str, runs: Sequence[Run], groups: Sequence[Group], board: Table, benchmarks: Sequence[Benchmark]
) -> str:
    """The page, which opens offline.

    Args:
        source: the folders that were asked for.
        runs: all of them.
        groups: in the order of the leaderboard.
        board: the leaderboard.
        benchmarks: the newest first.
    """
    figures: dict[str, Figure] = {}
    sections = [
        _leaderboard(board),
        _curves(groups),
        _costs(groups, figures),
        _settings(groups, figures),
        _benchmarks(benchmarks, figures),
        _runs(runs, groups),
        _configs(runs),
        _unfinished(runs),
    ]
    shown = [section for section in sections if section]
    links = "".join(f'<a href="#{name}">{title}</a>' for name, title, _ in shown)
    parts = [f'<section id="{name}"><h2>{title}</h2>\n{content}\n</section>' for name, title, content in shown]
    style = f"<style>\n{read_file('report.css', _HERE)}</style>\n"
    body = "\n".join([style + _head(source, runs, groups), f"<nav>{links}</nav>", "<main>", *parts, "</main>"])
    rows = [{"name": group.label, **style} for group, style in zip(groups, styles(groups), strict=True)]
    data = {
        "curves": {"rows": rows, "titles": {key: title for key, title, _ in METRICS}, "curves": mean_curves(groups)},
        "configs": {"runs": [run.name for run in runs], "keys": compact_configs(runs)},
    }
    return document(f"Runs in {source}", body, figures, data, [read_file("report.js", _HERE)])


def compact_configs(runs: Sequence[Run]) -> dict[str, Any]:
    """By key of the configs and environments: the distinct values and, unless all runs share one, each run's index."""
    flats = []
    for run in runs:
        environment = {key: value for key, value in run.environment.items() if key not in ("time", "command")}
        versions = {f"environment.{key}": as_text(value) for key, value in flatten(environment).items()}
        flats.append(run.flat_config | versions)
    columns: dict[str, Any] = {}
    for key in dict.fromkeys(key for flat in flats for key in flat):
        values = list(dict.fromkeys(flat[key] for flat in flats if key in flat))
        place = {value: index for index, value in enumerate(values)}
        indices = [place[flat[key]] if key in flat else _MISSING for flat in flats]
        columns[key] = [values] if set(indices) == {0} else [values, indices]
    return columns


def _head(source: str, runs: Sequence[Run], groups: Sequence[Group]) -> str:
    now = datetime.datetime.now().strftime("%Y-%m-%d %H:%M")
    facts = []
    for name, values in (
        ("model", {group.model for group in groups}),
        ("data", {group.data for group in groups}),
        ("epochs", {(group.config.get("trainer") or {}).get("max_epochs") for group in groups}),
        ("torch", {run.environment.get("packages", {}).get("torch") for run in runs}),
        ("commit", {(run.environment.get("git_commit") or "")[:10] for run in runs}),
    ):
        if values := values - {None, "", "–"}:
            text = ", ".join(sorted(map(str, values))) if len(values) <= 3 else f"{len(values)} different"
            facts.append(f"<dt>{name}</dt><dd>{html.escape(text)}</dd>")
    return (
        f"<header><h1>Runs in {html.escape(source)}</h1>\n"
        f'<p class="note">{html.escape(count_runs(runs))} · written {now}</p>\n<dl>{"".join(facts)}</dl></header>'
    )


def _leaderboard(board: Table) -> Section:
    if not board.rows:
        return None
    table = _filtered(board.to_html("leaderboard"), "leaderboard", "additive lr=0.001")
    return "ranking", "Leaderboard", f'{table}\n<p class="note">{html.escape(NOTE)}</p>'


def _filtered(table: str, name: str, example: str) -> str:
    return (
        f'<p class="tools"><input type="search" data-filter="{name}" placeholder="Filter: {example}" '
        f'aria-label="Filter the table"> <output data-count="{name}"></output></p>\n'
        f'<div class="wide tall">{table}</div>'
    )


def _curves(groups: Sequence[Group]) -> Section:
    if not groups:
        return None
    choices = "".join(
        f'<label><input type="radio" name="metric" value="{key}"{" checked" * (key == "val/acc1")}>{title}</label>'
        for key, title, _ in METRICS
    )
    content = f'<p class="tools choice">{choices}</p>\n<p class="note" id="curves-note"></p>\n{plot("curves", 460)}'
    return "learning", "Learning curves", content


def _costs(groups: Sequence[Group], figures: dict[str, Figure]) -> Section:
    costs = pareto_plots(groups)
    if not costs:
        return None
    figures |= {f"cost-{key}": figure for key, figure in costs.items()}
    plots = "\n".join(plot(f"cost-{key}", 400, _COST_TITLES[key]) for key in costs)
    note = "Rings mark the Pareto front: no other row is both cheaper and more accurate. Error bars: 95 % CI."
    if any((group.config.get("trainer") or {}).get("accelerator") == "cpu" for group in groups):
        note += " Memory on CPU: peak of the whole process."
    return "cost", "Accuracy against cost", f'<p class="note">{note}</p>\n<div class="plots">{plots}</div>'


def _settings(groups: Sequence[Group], figures: dict[str, Figure]) -> Section:
    by_setting = setting_plots(groups)
    if not by_setting:
        return None
    content = ""
    if parallel := parallel_plot(groups):
        figures["parallel"] = parallel
        content = (
            '<h3>All settings</h3>\n<p class="note">One line per row of the leaderboard, from blue (least accurate) to '
            "yellow (most accurate). Drag along an axis to select lines, and an axis title to move it.</p>\n"
            f'<div class="scroll">{plot("parallel", 400)}</div>\n'
        )
    figures |= {f"setting-{number}": figure for number, figure in enumerate(by_setting.values())}
    plots = "\n".join(plot(f"setting-{number}", 360, key) for number, key in enumerate(by_setting))
    return "settings", "Settings", f'{content}<div class="plots">{plots}</div>'


def _benchmarks(benchmarks: Sequence[Benchmark], figures: dict[str, Figure]) -> Section:
    if not benchmarks:
        return None
    parts = [
        f"<details{' open' * (number == 0)}><summary>{html.escape(one.label)}</summary>\n"
        f'<p class="note">{html.escape(one.note)}</p>\n{draw_charts(one.charts, figures, f"bench-{number}-")}</details>'
        for number, one in enumerate(benchmarks)
    ]
    return "bench", "Cost measured by fvit-bench", "\n".join(parts)


def _runs(runs: Sequence[Run], groups: Sequence[Group]) -> Section:
    if not runs:
        return None

    def compare_buttons(number: int) -> str:
        buttons = "".join(
            f'<button type="button" data-side="{side}" data-run="{number}" title="Compare as {side}">{side}</button>'
            for side in "AB"
        )
        return f'<td class="text pick">{buttons}</td>'

    table = run_table(runs, groups).to_html("runs-table", compare_buttons)
    return "runs", "Runs", _filtered(table, "runs-table", "failed additive")


def _configs(runs: Sequence[Run]) -> Section:
    if not runs:
        return None
    options = "".join(f'<option value="{number}">{html.escape(run.name)}</option>' for number, run in enumerate(runs))
    selects = " ".join(
        f'<label>{side} <select id="side-{side}">{options}</select></label>' for side in ("A", "B")[: len(runs)]
    )
    content = (
        f'<p class="tools">{selects}</p>\n<p class="note" id="diff-note"></p>\n'
        '<div class="wide"><table id="diff"></table></div>\n<details><summary>Full config of A</summary>\n'
        '<div class="wide tall"><table id="config"></table></div></details>'
    )
    return "configs", "Config diff", content


def _unfinished(runs: Sequence[Run]) -> Section:
    articles = [_unfinished_run(run) for run in runs if not run.finished]
    if not articles:
        return None
    note = '<p class="note">Not in the leaderboard; their learning curves show how far they got.</p>'
    return "unfinished", "Not finished", "\n".join([note, *articles])


def _unfinished_run(run: Run) -> str:
    status = html.escape(run.status)
    pill = f'<span class="status {status.replace(" ", "-")}">{status}</span> <code>{html.escape(run.name)}</code>'
    parts = [f'<p>{pill} <span class="soft">last written {when(run.last_written)}</span></p>']
    if run.error:
        parts.append(f"<pre>{html.escape(run.error)}</pre>")
    if run.log:
        lines = html.escape("\n".join(run.log))
        parts.append(f"<details><summary>Last lines of its log</summary><pre>{lines}</pre></details>")
    return f"<article>{''.join(parts)}</article>"
