"""A project's workspace and its report, from the same sections."""

from typing import Any

import wandb_workspaces.reports.v2 as wr
import wandb_workspaces.workspaces as ws
from wandb_workspaces import expr
from wandb_workspaces.reports.v2.interface import Block

from fvit.run.dashboard.costs import cost_tables
from fvit.run.dashboard.panels import ACCURACY, Section, config_key, sections
from fvit.run.report.costs import Benchmark

# Summary keys beside each run's name in the list of runs.
COLUMNS = (ACCURACY, "cost/macs", "cost/params", "throughput/images_per_s")


def workspace(config: dict[str, Any], entity: str, benchmark: Benchmark | None) -> ws.Workspace:
    """Our sections, open and on top; below them W&B's own panels of whatever else is logged.

    Args:
        config: of `fvit-dashboard`.
        entity: whose project it is; nobody's while it is not saved.
        benchmark: whose cost curves stand in it as tables.
    """
    shown = [_section(one) for one in sections(config["group_by"], config["settings"])]
    if benchmark is not None:
        panels = [wr.MarkdownPanel(f"**{title}**\n\n{table}") for title, table in cost_tables(benchmark)]
        shown.append(_section(Section(f"Cost, {benchmark.name}", benchmark.note, panels, columns=2)))
    columns = [f"config:{config_key(config['group_by'])}", *(f"summary:{key}" for key in COLUMNS)]
    return ws.Workspace(
        entity=entity,
        project=config["project"],
        name=config["name"],
        sections=shown,
        settings=ws.WorkspaceSettings(max_runs=100),
        runset_settings=ws.RunsetSettings(
            order=[expr.Ordering(expr.Summary(ACCURACY), ascending=False)], pinned_columns=columns
        ),
        auto_generate_panels=True,
    )


def report(config: dict[str, Any], entity: str, benchmark: Benchmark | None) -> wr.Report:
    """The same panels with a text to each; the arguments are those of `workspace`."""
    blocks: list[Block] = [wr.TableOfContents()]
    for one in sections(config["group_by"], config["settings"]):
        blocks += [wr.H1(one.title), wr.P(one.text), wr.PanelGrid(runsets=[_runs()], panels=one.panels)]
    if benchmark is not None:
        blocks += [wr.H1(f"Cost, {benchmark.name}"), wr.P(benchmark.note)]
        for title, table in cost_tables(benchmark):
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
    layout = ws.SectionLayoutSettings(columns=one.columns, rows=max(1, -(-len(one.panels) // one.columns)))
    return ws.Section(name=one.title, panels=one.panels, is_open=True, pinned=True, layout_settings=layout)


def _runs() -> wr.Runset:
    """Those of the report's own project: one that is named would be looked up on the server."""
    return wr.Runset(order=[wr.OrderBy(wr.SummaryMetric(ACCURACY), ascending=False)])
