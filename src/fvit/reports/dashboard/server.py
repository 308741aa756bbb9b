"""Saves a workspace and a report to the W&B server."""

from collections.abc import Callable
from pathlib import Path
from typing import TypeVar

import wandb_workspaces.reports.v2 as wr
import wandb_workspaces.workspaces as ws

from fvit.config.errors import RunError
from fvit.reports.bench.charts import Benchmark
from fvit.reports.dashboard.benchmark import log_candidates

T = TypeVar("T")


def default_entity() -> str:
    """From W&B's settings, or the owner of the key."""
    import wandb

    return _request(lambda: wandb.Api().default_entity)


def save(workspace: ws.Workspace, report: wr.Report, benchmark: Benchmark | None, folder: Path) -> dict[str, str]:
    """Saves new views and logs the benchmark that they show. Returns their URLs.

    Args:
        workspace: with its entity.
        report: of the same project.
        benchmark: shown in both.
        folder: for wandb's local files.

    Raises:
        RunError: the server refused.
    """
    # The report first: it creates the project if necessary.
    urls = {"report": _request(lambda: report.save().url), "workspace": _request(lambda: workspace.save().url)}
    if benchmark is not None:
        _request(lambda: log_candidates(benchmark, workspace.entity, workspace.project, "online", folder))
    return urls


def _request(send: Callable[[], T]) -> T:
    import wandb
    from wandb.sdk.lib.service.service_connection import WandbApiFailedError  # no public class covers a refusal

    try:
        return send()
    except (wandb.errors.Error, WandbApiFailedError) as error:
        first_line = str(error).strip().partition("\n")[0]
        raise RunError(f"the W&B server refused: {first_line}") from error
