"""report.html: a part per dataset, benchmarks, all runs and their configs in one page."""

import datetime
import html
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from fvit.config.flatten import flatten
from fvit.reports.bench.charts import Benchmark, attentions, draw_charts
from fvit.reports.runs.apart import set_apart
from fvit.reports.runs.collect import Run, as_text
from fvit.reports.runs.curves import METRICS
from fvit.reports.runs.dataset import Section, curve_data, dataset_sections, filter_box
from fvit.reports.runs.files import count_runs
from fvit.reports.runs.groups import Ranking
from fvit.reports.runs.plots import Figure
from fvit.reports.runs.tables import run_table, status_of, when
from fvit.reports.web.colours import Palette
from fvit.reports.web.document import document, read_file

_HERE = Path(__file__).parent
# In the column of a key that a run lacks.
_MISSING = -1


def render_report(
    source: str, runs: Sequence[Run], rankings: Sequence[Ranking], baseline: str, benchmarks: Sequence[Benchmark]
) -> str:
    """The page, which opens offline.

    Args:
        source: the folders that were asked for.
        runs: all of them.
        rankings: one per dataset.
        baseline: attention with which the others are compared.
        benchmarks: the newest first.
    """
    figures: dict[str, Figure] = {}
    trained = [group.attention for ranking in rankings for group in ranking.groups]
    palette = Palette([*trained, *(name for one in benchmarks for name in attentions(one.charts))])
    sections = [
        section
        for number, ranking in enumerate(rankings)
        for section in dataset_sections(number, ranking, baseline, palette, figures, alone=len(rankings) == 1)
    ]
    sections += [*_benchmarks(benchmarks, palette, figures), *_runs(runs, rankings), *_apart(runs)]
    links = "".join(f'<a href="#{one.name}">{html.escape(one.title)}</a>' for one in sections if one.linked)
    parts = [
        f'<section id="{one.name}"><h2>{html.escape(one.title)}</h2>\n{one.content}\n</section>' for one in sections
    ]
    style = f"<style>\n{read_file('report.css', _HERE)}</style>\n"
    body = "\n".join([style + _head(source, runs, rankings), f"<nav>{links}</nav>", "<main>", *parts, "</main>"])
    data = {
        "curves": {
            "titles": {key: title for key, title, _ in METRICS},
            "boards": [curve_data(ranking, palette) for ranking in rankings],
        },
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


def _head(source: str, runs: Sequence[Run], rankings: Sequence[Ranking]) -> str:
    now = datetime.datetime.now().strftime("%Y-%m-%d %H:%M")
    groups = [group for ranking in rankings for group in ranking.groups]
    facts = []
    for name, values in (
        ("model", {group.model for group in groups}),
        ("data", {ranking.data for ranking in rankings}),
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


def _benchmarks(benchmarks: Sequence[Benchmark], palette: Palette, figures: dict[str, Figure]) -> list[Section]:
    if not benchmarks:
        return []
    parts = [
        f"<details{' open' * (number == 0)}><summary>{html.escape(one.label)}</summary>\n"
        f'<p class="note">{html.escape(one.note)}</p>\n'
        f"{draw_charts(one.charts, figures, palette, f'bench-{number}-')}</details>"
        for number, one in enumerate(benchmarks)
    ]
    return [Section("bench", "Cost measured by fvit-bench", "\n".join(parts))]


def _runs(runs: Sequence[Run], rankings: Sequence[Ranking]) -> list[Section]:
    if not runs:
        return []

    def compare_buttons(number: int) -> str:
        buttons = "".join(
            f'<button type="button" data-side="{side}" data-run="{number}" title="Compare as {side}">{side}</button>'
            for side in "AB"
        )
        return f'<td class="text pick">{buttons}</td>'

    table = run_table(runs, rankings).to_html("runs-table", compare_buttons)
    listed = (
        f'{filter_box("runs-table", "failed additive")}\n<div class="wide tall" data-board="runs-table">{table}</div>'
    )
    return [Section("runs", "Runs", listed), Section("configs", "Config diff", _configs(runs))]


def _configs(runs: Sequence[Run]) -> str:
    options = "".join(f'<option value="{number}">{html.escape(run.name)}</option>' for number, run in enumerate(runs))
    selects = " ".join(
        f'<label>{side} <select id="side-{side}">{options}</select></label>' for side in ("A", "B")[: len(runs)]
    )
    return (
        f'<p class="tools">{selects}</p>\n<p class="note" id="diff-note"></p>\n'
        '<div class="wide"><table id="diff"></table></div>\n<details><summary>Full config of A</summary>\n'
        '<div class="wide tall"><table id="config"></table></div></details>'
    )


def _apart(runs: Sequence[Run]) -> list[Section]:
    return [
        Section(
            kind.name,
            f"{kind.title} ({len(members)})",
            "\n".join([f'<p class="note">{html.escape(kind.note)}</p>', *map(_article, members)]),
        )
        for kind, members in set_apart(runs).items()
    ]


def _article(run: Run) -> str:
    status = html.escape(status_of(run))
    pill = f'<span class="status {status.replace(" ", "-")}">{status}</span> <code>{html.escape(run.name)}</code>'
    parts = [f'<p>{pill} <span class="soft">last written {when(run.last_written)}</span></p>']
    if run.overrides:
        parts.append(f'<p class="soft"><code>{html.escape(" ".join(run.overrides))}</code></p>')
    if run.error:
        parts.append(f"<pre>{html.escape(run.error)}</pre>")
    if run.log:
        lines = html.escape("\n".join(run.log))
        parts.append(f"<details><summary>Last lines of its log</summary><pre>{lines}</pre></details>")
    return f"<article>{''.join(parts)}</article>"
