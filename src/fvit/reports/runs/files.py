"""The report on the terminal, as Markdown, and as CSV."""

import datetime
from collections import Counter
from collections.abc import Sequence
from pathlib import Path

from fvit.launch.console import console, print_facts, print_rows
from fvit.reports.runs.collect import Run
from fvit.reports.runs.groups import ACCURACY, Group, MeanCI
from fvit.reports.runs.tables import NOTE
from fvit.reports.web.tables import Table, to_csv

_METRICS = ("val/loss", f"best/{ACCURACY}", "cost/params", "cost/macs", "throughput/images_per_s", "memory/peak_gib")
_PRINTED_ROWS = 20


def count_runs(runs: Sequence[Run]) -> str:
    """``9 runs: 8 finished, 1 failed``."""
    statuses = Counter(run.status for run in runs).most_common()
    return f"{len(runs)} run{'s' * (len(runs) != 1)}: " + ", ".join(f"{number} {status}" for status, number in statuses)


def print_summary(runs: Sequence[Run], board: Table, folder: Path) -> None:
    """The top of the leaderboard, and where the report is."""
    if board.rows:
        print_rows("Leaderboard", board.head, board.rows[:_PRINTED_ROWS])
    if len(board.rows) > _PRINTED_ROWS:
        console.print(f"{len(board.rows) - _PRINTED_ROWS} more rows in the report", markup=False)
    facts = [("runs", count_runs(runs))] if runs else []
    files = {"report": "report.html", "Markdown": "report.md", "leaderboard": "report.csv", "all runs": "runs.csv"}
    print_facts("", facts + [(name, str(folder / file)) for name, file in files.items()])


def markdown(source: str, runs: Sequence[Run], board: Table) -> str:
    """The leaderboard, and the runs that did not finish with the last lines of their logs."""
    now = datetime.datetime.now().strftime("%Y-%m-%d %H:%M")
    parts = [f"# Runs in {source}", f"{count_runs(runs)}. Written {now}."]
    if board.rows:
        parts += ["## Leaderboard", board.to_markdown(), NOTE]
    unfinished = [run for run in runs if not run.finished]
    if unfinished:
        parts.append("## Not finished")
    for run in unfinished:
        parts.append(f"**{run.name}**: {run.status}")
        text = "\n".join([*filter(None, [run.error]), *run.log])
        # A fence longer than any in the text.
        fence = "`" * max(3, 1 + max((len(word) for word in text.split() if set(word) == {"`"}), default=0))
        parts += [f"{fence}text\n{text}\n{fence}"] if text else []
    return "\n\n".join(parts) + "\n"


def groups_csv(groups: Sequence[Group]) -> str:
    """A line per group: accuracies from 0 to 1, with the half-width of the 95 % interval and the number of seeds."""
    lines = []
    for rank, group in enumerate(groups, 1):
        line = {"rank": rank, "attention": group.attention, "model": group.model, "data": group.data, **group.settings}
        line |= {"seeds": len(group.finished), "runs": len(group.runs)}
        line |= _columns(ACCURACY, group.mean(ACCURACY)) | _columns("difference", group.difference())
        for metric in _METRICS:
            line |= _columns(metric, group.mean(metric))
        lines.append(line)
    return to_csv(lines)


def runs_csv(runs: Sequence[Run], groups: Sequence[Group]) -> str:
    """A line per run with all its final metrics."""
    names = {
        run.folder: {"attention": group.attention, "model": group.model, **group.settings}
        for group in groups
        for run in group.runs
    }
    return to_csv(
        {"run": run.name, "status": run.status, "seed": run.seed}
        | names.get(run.folder, {})
        | {"seconds": run.seconds or None, **run.metrics, "error": run.error}
        for run in runs
    )


def _columns(name: str, found: MeanCI | None) -> dict[str, float | int | None]:
    if found is None:
        return {name: None, f"{name}_half": None, f"{name}_n": 0}
    return {name: found.mean, f"{name}_half": found.half_width, f"{name}_n": found.n}
