"""Saving a workspace and a report to W&B, where there is a server that takes a key of ours."""

from collections.abc import Callable
from pathlib import Path
from typing import TypeVar

import wandb_workspaces.reports.v2 as wr
import wandb_workspaces.workspaces as ws

from fvit.config.errors import RunError
from fvit.loggers.wandb_server import asked_mode, has_key
from fvit.reports.dashboard import costs
from fvit.reports.runs.costs import Benchmark

T = TypeVar("T")


def why_not() -> str | None:
    """The reason for which nothing can be saved, and the remedy; None if it can."""
    if (mode := asked_mode()) != "online":
        return f"W&B's mode is {mode}; WANDB_MODE=online changes it"
    try:
        return None if has_key() else "no API key; `wandb login` asks for it, then give this command again"
    except ConnectionError as error:
        return f"{error}; give this command again when it does"


def own_entity() -> str:
    """Whose projects are meant if nobody is named: W&B's setting, or the key's owner."""
    import wandb

    return _ask(lambda: wandb.Api().default_entity)


def save(
    workspace: ws.Workspace, report: wr.Report, benchmark: Benchmark | None, folder: Path
) -> list[tuple[str, str]]:
    """Save both as new ones, and what their cost curves are drawn from; tell where they are.

    Args:
        workspace: of an entity.
        report: of the same.
        benchmark: whose cost curves they show.
        folder: for wandb's own files.

    Raises:
        RunError: the server does not take it.
    """
    # The report first: it makes the project, if there is none.
    saved = [("report", _ask(lambda: report.save().url)), ("workspace", _ask(lambda: workspace.save().url))]
    if benchmark is not None:
        _ask(lambda: costs.log(benchmark, workspace.entity, workspace.project, "online", folder))
    return saved


def _ask(question: Callable[[], T]) -> T:
    import wandb
    from wandb.sdk.lib.service.service_connection import WandbApiFailedError  # a refusal, which no public class tells

    try:
        return question()
    except (wandb.errors.Error, WandbApiFailedError) as error:
        first_line = str(error).strip().partition("\n")[0]
        raise RunError(f"W&B's server does not take it: {first_line}") from error
