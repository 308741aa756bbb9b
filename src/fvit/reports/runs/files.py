"""The report as Markdown and CSV, and its leaderboard on the terminal."""

import csv
import datetime
import io
from collections import Counter
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any

from fvit.launch.console import console, print_facts, print_rows
from fvit.reports.runs.gather import Run
from fvit.reports.runs.groups import ACCURACY, Group
from fvit.reports.runs.statistics import Estimate
from fvit.reports.runs.tables import Table, to_markdown

NOTE = (
    "Accuracy: of the last epoch on the validation images, mean ± half of Student's 95 % interval over the seeds that "
    "finished; with one seed there is no interval. Difference: the mean over the seeds that both have, in brackets how "
    "many, to the row that is the same but for its attention. Best epoch: chosen on the images it is measured on, "
    "which is optimistic."
)
_METRICS = ("val/loss", f"best/{ACCURACY}", "cost/params", "cost/macs", "throughput/images_per_s", "memory/peak_gib")
# Lines on the terminal; the files have all.
_SHOWN = 20


def counted(runs: Sequence[Run]) -> str:
    """'9 runs: 8 finished, 1 failed'."""
    statuses = Counter(run.status for run in runs).most_common()
    return f"{len(runs)} run{'s' * (len(runs) != 1)}: " + ", ".join(f"{number} {status}" for status, number in statuses)


def tell(runs: Sequence[Run], table: Table, folder: Path) -> None:
    """Print the leaderboard, and where all of it is."""
    if table.rows:
        rows = [[cell.text for cell in row] for row in table.rows]
        print_rows("Leaderboard", table.head, rows[:_SHOWN])
    if len(table.rows) > _SHOWN:
        console.print(f"and {len(table.rows) - _SHOWN} rows more in the report", markup=False)
    facts = [("runs", counted(runs))] if runs else []
    facts += [("report", str(folder / "report.html")), ("as text", str(folder / "report.md"))]
    print_facts("", [*facts, ("rows, runs", f"{folder / 'report.csv'}, {folder / 'runs.csv'}")])


def markdown(source: str, runs: Sequence[Run], table: Table) -> str:
    """The leaderboard, and the runs that did not finish with the last lines of their logs."""
    now = datetime.datetime.now().strftime("%Y-%m-%d %H:%M")
    parts = [f"# Runs in {source}", f"{counted(runs)}. Written {now}."]
    if table.rows:
        parts += ["## Leaderboard", to_markdown(table), NOTE]
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
    """A line a row of the leaderboard, figures as they are: accuracies from 0 to 1, `_half` of the 95 % interval."""
    return _csv(_group_line(rank, one) for rank, one in enumerate(groups, 1))


def runs_csv(runs: Sequence[Run], groups: Sequence[Group]) -> str:
    """A line a run, with all metrics of its end."""
    rows = {run.folder: one for one in groups for run in one.runs}
    lines = []
    for run in runs:
        one = rows.get(run.folder)
        told = {} if one is None else {"attention": one.attention, "model": one.model, **one.settings}
        line = {"run": run.name, "status": run.status, "seed": run.seed, **told, "seconds": run.seconds or None}
        lines.append({**line, **run.metrics, "error": run.error})
    return _csv(lines)


def _group_line(rank: int, one: Group) -> dict[str, Any]:
    line = {"rank": rank, "attention": one.attention, "model": one.model, "data": one.data, **one.settings}
    line |= {"seeds": len(one.counted), "runs": len(one.runs)}
    line |= _estimate(ACCURACY, one.estimate(ACCURACY)) | _estimate("difference", one.difference())
    for metric in _METRICS:
        line |= _estimate(metric, one.estimate(metric))
    return line


def _estimate(name: str, found: Estimate | None) -> dict[str, float | int | None]:
    mean, half, n = (None, None, 0) if found is None else (found.mean, found.half, found.n)
    return {name: mean, f"{name}_half": half, f"{name}_n": n}


def _csv(lines: Iterable[dict[str, Any]]) -> str:
    lines = list(lines)
    text = io.StringIO()
    writer = csv.DictWriter(text, list(dict.fromkeys(key for line in lines for key in line)), lineterminator="\n")
    writer.writeheader()
    writer.writerows(lines)
    return text.getvalue()
