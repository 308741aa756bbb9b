"""The report on the terminal, as Markdown, and as CSV."""

import datetime
from collections import Counter
from collections.abc import Sequence
from pathlib import Path

from fvit.config.wording import count
from fvit.launch.console import console, print_facts, print_rows
from fvit.reports.runs.apart import set_apart
from fvit.reports.runs.collect import Run
from fvit.reports.runs.groups import ACCURACY, TEST, Group, MeanCI, Ranking
from fvit.reports.runs.settings import setting_text
from fvit.reports.runs.tables import common_text, leaderboard, notes, status_of
from fvit.reports.web.tables import to_csv

_METRICS = (
    "val/loss",
    f"best/{ACCURACY}",
    TEST,
    "cost/params",
    "cost/macs",
    "throughput/images_per_s",
    "memory/peak_gib",
)
_PRINTED_ROWS = 20


def count_runs(runs: Sequence[Run]) -> str:
    """``9 runs: 7 finished, 1 failed, 1 debug``."""
    kinds = Counter("debug" if run.is_debug else status_of(run) for run in runs).most_common()
    return f"{len(runs)} run{'s' * (len(runs) != 1)}: " + ", ".join(f"{number} {kind}" for kind, number in kinds)


def board_title(ranking: Ranking) -> str:
    """``Leaderboard: digits``."""
    return f"Leaderboard: {ranking.data}"


def print_summary(runs: Sequence[Run], rankings: Sequence[Ranking], baseline: str, folder: Path) -> None:
    """The top of each leaderboard, and where the report is."""
    for ranking in rankings:
        board = leaderboard(ranking, baseline)
        print_rows(board_title(ranking), board.head, board.rows[:_PRINTED_ROWS])
        if len(board.rows) > _PRINTED_ROWS:
            console.print(f"{count(len(board.rows) - _PRINTED_ROWS, 'more row')} in the report", markup=False)
        if common := common_text(ranking):
            console.print(common, markup=False, style="dim")
    facts = [("runs", count_runs(runs))] if runs else []
    files = {"report": "report.html", "Markdown": "report.md", "leaderboard": "report.csv", "all runs": "runs.csv"}
    print_facts("", facts + [(name, str(folder / file)) for name, file in files.items()])


def markdown(source: str, runs: Sequence[Run], rankings: Sequence[Ranking], baseline: str) -> str:
    """The leaderboards, and the runs apart from them with the last lines of their logs."""
    now = datetime.datetime.now().strftime("%Y-%m-%d %H:%M")
    parts = [f"# Runs in {source}", f"{count_runs(runs)}. Written {now}."]
    for ranking in rankings:
        board = leaderboard(ranking, baseline).to_markdown()
        parts += filter(None, [f"## {board_title(ranking)}", board, common_text(ranking)])
    if rankings:
        parts += notes(rankings)
    for kind, apart in set_apart(runs).items():
        parts.append(f"## {kind.title}")
        for run in apart:
            parts.append(f"**{run.name}**: {status_of(run)}")
            text = "\n".join([*filter(None, [run.error]), *run.log])
            # A fence longer than any in the text.
            fence = "`" * max(3, 1 + max((len(word) for word in text.split() if set(word) == {"`"}), default=0))
            parts += [f"{fence}text\n{text}\n{fence}"] if text else []
    return "\n\n".join(parts) + "\n"


def groups_csv(rankings: Sequence[Ranking]) -> str:
    """A line per group: accuracies from 0 to 1, with the half-width of the 95 % interval and the number of seeds."""
    lines = []
    for ranking in rankings:
        for rank, group in enumerate(ranking.groups, 1):
            line = {"data": ranking.data, "rank": rank, **_names(group)}
            line |= {"seeds": len(group.finished), "runs": len(group.runs)}
            line |= _columns(ACCURACY, group.mean(ACCURACY)) | _columns("difference", group.difference(ACCURACY))
            for metric in _METRICS:
                line |= _columns(metric, group.mean(metric))
            lines.append(line)
    return to_csv(lines)


def runs_csv(runs: Sequence[Run], rankings: Sequence[Ranking]) -> str:
    """A line per run with all its final metrics."""
    names = {
        run.folder: {"data": ranking.data, **_names(group)}
        for ranking in rankings
        for group in ranking.groups
        for run in group.runs
    }
    return to_csv(
        {"run": run.name, "status": status_of(run), "debug": run.is_debug, "seed": run.seed}
        | names.get(run.folder, {})
        | {"seconds": run.seconds or None, **run.metrics, "error": run.error}
        for run in runs
    )


def _names(group: Group) -> dict[str, str]:
    settings = " ".join(f"{key}={setting_text(value)}" for key, value in group.settings.items())
    return {"attention": group.attention, "model": group.model, "settings": settings}


def _columns(name: str, found: MeanCI | None) -> dict[str, float | int | None]:
    if found is None:
        return {name: None, f"{name}_half": None, f"{name}_n": 0}
    return {name: found.mean, f"{name}_half": found.half_width, f"{name}_n": found.n}
