"""The report as one page: leaderboard, curves, plots, costs, all runs and their configurations."""

import datetime
import html
from collections.abc import Sequence
from pathlib import Path

from fvit.reports.bench.figures import figure, height
from fvit.reports.runs.costs import Benchmark
from fvit.reports.runs.curves import METRICS, curves
from fvit.reports.runs.files import NOTE, counted
from fvit.reports.runs.flat import compact
from fvit.reports.runs.gather import Run
from fvit.reports.runs.groups import Group
from fvit.reports.runs.parallel import parallel
from fvit.reports.runs.plots import Figure, pareto, scatter, styles
from fvit.reports.runs.tables import Table, run_table, to_html, when
from fvit.reports.web.document import document, plot, read

# The id, the title and the content of a part of the page; None where there is nothing to show.
Section = tuple[str, str, str] | None

_HERE = Path(__file__).parent
_PARETO = {"macs": "Multiply-accumulates", "params": "Parameters", "throughput": "Throughput", "memory": "Memory"}
_MEMORY_NOTE = " Memory on a CPU is that of the whole process, at its height during the run."
_UNFINISHED_NOTE = "How far they got is in the curves; nothing of them counts in the leaderboard."


def page(
    source: str, runs: Sequence[Run], groups: Sequence[Group], leaderboard: Table, benchmarks: Sequence[Benchmark]
) -> str:
    """HTML with all that it needs inside it.

    Args:
        source: the folders that were asked for.
        runs: all of them.
        groups: the rows, as ranked.
        leaderboard: of `groups`, in their order.
        benchmarks: the newest first.
    """
    figures: dict[str, Figure] = {}
    sections = [
        _leaderboard(leaderboard),
        _curves(groups),
        _pareto(groups, figures),
        _settings(groups, figures),
        _costs(benchmarks, figures),
        _runs(runs, groups),
        _configurations(runs),
        _unfinished(runs),
    ]
    shown = [section for section in sections if section]
    links = "".join(f'<a href="#{name}">{title}</a>' for name, title, _ in shown)
    parts = [f'<section id="{name}"><h2>{title}</h2>\n{content}\n</section>' for name, title, content in shown]
    body = "\n".join([_head(source, runs, groups), f"<nav>{links}</nav>", "<main>", *parts, "</main>"])
    rows = [
        {"name": one.label, "colour": style["colour"], "dash": style["dash"]}
        for one, style in zip(groups, styles(groups), strict=True)
    ]
    data = {
        "curves": {"rows": rows, "titles": {key: title for key, title, _ in METRICS}, "curves": curves(groups)},
        "configurations": {"runs": [run.name for run in runs], "keys": compact(runs)},
    }
    style = f"<style>\n{read('report.css', _HERE)}</style>\n"
    return document(f"Runs in {source}", style + body, figures, data, [read("report.js", _HERE)])


def _head(source: str, runs: Sequence[Run], groups: Sequence[Group]) -> str:
    now = datetime.datetime.now().strftime("%Y-%m-%d %H:%M")
    facts = []
    for name, values in (
        ("model", {one.model for one in groups}),
        ("data", {one.data for one in groups}),
        ("epochs", {(one.config.get("trainer") or {}).get("max_epochs") for one in groups}),
        ("torch", {run.environment.get("packages", {}).get("torch") for run in runs}),
        ("commit", {(run.environment.get("git_commit") or "")[:10] for run in runs}),
    ):
        values -= {None, "", "–"}
        if values:
            told = ", ".join(map(str, sorted(values, key=str))) if len(values) <= 3 else f"{len(values)} different ones"
            facts.append(f"<dt>{name}</dt><dd>{html.escape(told)}</dd>")
    return (
        f"<header><h1>Runs in {html.escape(source)}</h1>\n"
        f'<p class="note">{html.escape(counted(runs))} · written {now}</p>\n<dl>{"".join(facts)}</dl></header>'
    )


def _leaderboard(table: Table) -> Section:
    if not table.rows:
        return None
    box = _filter("leaderboard", "additive lr=0.001")
    return "ranking", "Leaderboard", f'{box}\n{to_html(table, "leaderboard")}\n<p class="note">{html.escape(NOTE)}</p>'


def _filter(name: str, example: str) -> str:
    return (
        f'<p class="tools"><input type="search" data-filter="{name}" placeholder="Filter: {example}" '
        f'aria-label="Filter the table"> <output data-count="{name}"></output></p>'
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


def _pareto(groups: Sequence[Group], figures: dict[str, Figure]) -> Section:
    found = pareto(groups)
    if not found:
        return None
    figures |= {f"pareto-{key}": one for key, one in found.items()}
    on_cpu = any((one.config.get("trainer") or {}).get("accelerator") == "cpu" for one in groups)
    places = "\n".join(plot(f"pareto-{key}", 400, _PARETO[key]) for key in found)
    note = "A ring marks what no other row beats in both; bars are 95 % intervals." + _MEMORY_NOTE * on_cpu
    return "cost", "Accuracy against cost", f'<p class="note">{note}</p>\n<div class="plots">{places}</div>'


def _settings(groups: Sequence[Group], figures: dict[str, Figure]) -> Section:
    lines, found = parallel(groups), scatter(groups)
    if not found:
        return None
    places = []
    if lines is not None:
        figures["parallel"] = lines
        note = "A line a row, from blue (least accurate) to yellow."
        places.append(f'<div class="scroll">{plot("parallel", 380, "All settings at once", note)}</div>')
    for number, (key, one) in enumerate(found.items()):
        figures[f"setting-{number}"] = one
        places.append(plot(f"setting-{number}", 360, key))
    wide = places[:1] if lines is not None else []
    grid = f'<div class="plots">{"".join(places[len(wide) :])}</div>'
    return "settings", "What was varied", "\n".join([*wide, grid])


def _costs(benchmarks: Sequence[Benchmark], figures: dict[str, Figure]) -> Section:
    if not benchmarks:
        return None
    parts = []
    for number, one in enumerate(benchmarks):
        names = {chart.key: f"bench-{number}-{chart.key}" for chart in one.charts}
        figures |= {names[chart.key]: figure(chart) for chart in one.charts}
        places = "\n".join(plot(names[chart.key], height(chart), chart.title) for chart in one.charts)
        parts.append(
            f"<details{' open' * (number == 0)}><summary>{html.escape(one.name)}</summary>\n"
            f'<p class="note">{html.escape(one.note)}</p>\n<div class="plots">{places}</div></details>'
        )
    return "bench", "Cost, measured by fvit-bench", "\n".join(parts)


def _runs(runs: Sequence[Run], groups: Sequence[Group]) -> Section:
    if not runs:
        return None

    def choose(number: int) -> str:
        buttons = "".join(
            f'<button type="button" data-side="{side}" data-run="{number}" title="Compare as {side}">{side}</button>'
            for side in "AB"
        )
        return f'<td class="text pick">{buttons}</td>'

    box = _filter("runs-table", "failed additive")
    return "runs", "Runs", f"{box}\n{to_html(run_table(runs, groups), 'runs-table', choose)}"


def _configurations(runs: Sequence[Run]) -> Section:
    if not runs:
        return None
    options = "".join(f'<option value="{number}">{html.escape(run.name)}</option>' for number, run in enumerate(runs))
    selects = " ".join(
        f'<label>{side} <select id="side-{side}">{options}</select></label>' for side in ("A", "B")[: len(runs)]
    )
    content = (
        f'<p class="tools">{selects}</p>\n<p class="note" id="diff-note"></p>\n'
        '<div class="wide"><table id="diff"></table></div>\n<details><summary>The whole configuration of A</summary>\n'
        '<div class="wide tall"><table id="config"></table></div></details>'
    )
    return "configurations", "Configurations", content


def _unfinished(runs: Sequence[Run]) -> Section:
    those = [run for run in runs if not run.finished]
    if not those:
        return None
    return "unfinished", "Not finished", "\n".join([f'<p class="note">{_UNFINISHED_NOTE}</p>', *map(_ended, those)])


def _ended(run: Run) -> str:
    """How a run ended, as far as it is known."""
    status = html.escape(run.status)
    head = f'<span class="status {status.replace(" ", "-")}">{status}</span> <code>{html.escape(run.name)}</code>'
    parts = [f'<p>{head} <span class="soft">last written {when(run.touched)}</span></p>']
    if run.error:
        parts.append(f"<pre>{html.escape(run.error)}</pre>")
    if run.log:
        lines = html.escape("\n".join(run.log))
        parts.append(f"<details><summary>Last lines of its log</summary><pre>{lines}</pre></details>")
    return f"<article>{''.join(parts)}</article>"
