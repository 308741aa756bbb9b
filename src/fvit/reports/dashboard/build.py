"""A project's workspace and its report, from the same sections."""

from typing import Any

import wandb_workspaces.reports.v2 as wr
import wandb_workspaces.workspaces as ws
from wandb_workspaces import expr
from wandb_workspaces.reports.v2.interface import Block

from fvit.reports.dashboard import costs
from fvit.reports.dashboard.panels import ACCURACY, Section, config_key, cost_section, sections
from fvit.reports.runs.costs import Benchmark

# Summary keys beside each run's name in the list of runs.
_COLUMNS = (ACCURACY, "cost/macs", "cost/params", "throughput/images_per_s")


def workspace(config: dict[str, Any], entity: str, benchmark: Benchmark | None) -> ws.Workspace:
    """Our sections, open and on top; below them W&B's own panels of whatever else is logged.

    Args:
        config: of `fvit-dashboard`.
        entity: whose project it is; empty while that is not known.
        benchmark: whose cost curves to show.
    """
    shown = sections(config["group_by"], config["settings"])
    if benchmark is not None:
        shown.append(cost_section(benchmark))
    columns = [f"config:{config_key(config['group_by'])}", *(f"summary:{key}" for key in _COLUMNS)]
    return ws.Workspace(
        entity=entity,
        project=config["project"],
        name=config["name"],
        sections=[_section(one) for one in shown],
        settings=ws.WorkspaceSettings(max_runs=100),
        runset_settings=ws.RunsetSettings(
            order=[expr.Ordering(expr.Summary(ACCURACY), ascending=False)], pinned_columns=columns
        ),
        auto_generate_panels=True,
    )


def report(config: dict[str, Any], entity: str, benchmark: Benchmark | None) -> wr.Report:
    """The same panels with a text to each, and a benchmark's figures as tables; arguments as of `workspace`."""
    trained = expr.Metric("JobType") != costs.JOB_TYPE
    blocks: list[Block] = [wr.TableOfContents()]
    for one in sections(config["group_by"], config["settings"]):
        blocks += _blocks(one, trained)
    if benchmark is not None:
        blocks += _blocks(cost_section(benchmark), expr.Metric("Group") == costs.group(benchmark))
        for title, table in costs.tables(benchmark):
            blocks += [wr.H2(title), wr.MarkdownBlock(table)]
    return wr.Report(
        project=config["project"],
        entity=entity,  # its default asks the server
        title=config["name"],
        description=f"Runs of {config['project']}, by {config['group_by']}.",
        blocks=blocks,
        width="fluid",
    )


def _section(one: Section) -> ws.Section:
    rows = -(-len(one.panels) // one.columns)
    layout = ws.SectionLayoutSettings(columns=one.columns, rows=rows)
    return ws.Section(name=one.title, panels=one.panels, is_open=True, pinned=True, layout_settings=layout)


def _blocks(one: Section, runs: expr.FilterExpr) -> list[Block]:
    """A section of the report, of some runs of its own project: one that is named would be looked up on the server."""
    runset = wr.Runset(filters=expr.And(runs), order=[wr.OrderBy(wr.SummaryMetric(ACCURACY), ascending=False)])
    return [wr.H1(one.title), wr.P(one.text), wr.PanelGrid(runsets=[runset], panels=one.panels)]
