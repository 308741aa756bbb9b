"""The runs without a place in a leaderboard: failures, stopped and debug runs, commands that never started."""

from collections.abc import Sequence
from typing import NamedTuple

from fvit.reports.runs.collect import Run

_FAILED = ("failed", "crashed", "killed", "unreadable")


class Kind(NamedTuple):
    """Why runs are apart.

    Attributes:
        name: id of their part of the page.
        title: its heading.
        note: what they have in common.
    """

    name: str
    title: str
    note: str


RUNNING = Kind("running", "Running", "The last change of their files says whether they are alive.")
FAILED = Kind("failed", "Failed", "An error ended them, or their process disappeared.")
STOPPED = Kind("stopped", "Stopped on the way", "Interrupted, or pruned by a search.")
NOT_STARTED = Kind("not-started", "Never started", "Commands that were refused, or ended before they had trained.")
DEBUG = Kind("debug", "Debug runs", "A few batches with debug=…, which say nothing about accuracy.")


def set_apart(runs: Sequence[Run]) -> dict[Kind, list[Run]]:
    """The runs of each kind; only kinds that have some."""
    found: dict[Kind, list[Run]] = {kind: [] for kind in (RUNNING, FAILED, STOPPED, NOT_STARTED, DEBUG)}
    for run in runs:
        if kind := _kind(run):
            found[kind].append(run)
    return {kind: members for kind, members in found.items() if members}


def _kind(run: Run) -> Kind | None:
    if run.never_started:
        return NOT_STARTED
    if run.is_debug:
        return DEBUG
    if run.status in _FAILED:
        return FAILED
    if run.status == "running":
        return RUNNING
    return None if run.finished else STOPPED
