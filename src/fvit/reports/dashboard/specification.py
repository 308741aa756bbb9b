"""Workspaces and reports as the JSON that W&B's server would be sent."""

from typing import Any

import wandb_workspaces.reports.v2 as wr
import wandb_workspaces.workspaces as ws


def specification(made: ws.Workspace | wr.Report) -> dict[str, Any]:
    """What its ``save`` sends. The library tells it by this private method alone, which needs no server."""
    return made._to_model().model_dump(mode="json", by_alias=True, exclude_none=True)
