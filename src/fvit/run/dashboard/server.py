"""Saving a workspace and a report to W&B, where there is a server that takes a key of ours."""

import os
from collections.abc import Callable
from typing import TypeVar

import wandb_workspaces.reports.v2 as wr
import wandb_workspaces.workspaces as ws

from fvit.run.errors import RunError
from fvit.run.wandb_server import has_key

T = TypeVar("T")


def why_not() -> str | None:
    """The reason for which nothing can be saved; None if it can."""
    import wandb

    # What `wandb offline` has set for the folder is no variable.
    mode = os.environ.get("WANDB_MODE") or wandb.setup().settings.mode
    if mode != "online":
        return f"W&B's mode is {mode}"
    try:
        return None if has_key() else "no API key"
    except ConnectionError as error:
        return str(error)


def own_entity() -> str:
    """Whose projects are meant if nobody is named: W&B's setting, or the key's owner."""
    import wandb

    return _ask(lambda: wandb.Api().default_entity)


def save(workspace: ws.Workspace, report: wr.Report) -> list[tuple[str, str]]:
    """Save both as new ones, and tell where they are."""
    # The report first: it makes the project, if there is none.
    return [(kind, _ask(lambda made=made: made.save().url)) for kind, made in (("report", report), ("workspace", workspace))]


def _ask(question: Callable[[], T]) -> T:
    import wandb

    try:
        return question()
    except wandb.errors.Error as error:
        first_line = str(error).strip().partition("\n")[0]
        raise RunError(f"W&B's server does not take it: {first_line}") from error
