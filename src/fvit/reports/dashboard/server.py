"""Saving a workspace and a report to W&B, where there is a server that takes a key of ours."""

from collections.abc import Callable
from pathlib import Path
from typing import TypeVar

import wandb_workspaces.reports.v2 as wr
import wandb_workspaces.workspaces as ws

from fvit.config.errors import RunError
from fvit.reports.dashboard import costs
from fvit.reports.runs.costs import Benchmark

T = TypeVar("T")


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
