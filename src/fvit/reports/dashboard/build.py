"""The workspace and the report of a W&B project, and the JSON that specifies them."""

from typing import Any

import wandb_workspaces.reports.v2 as wr
import wandb_workspaces.workspaces as ws
from wandb_workspaces import expr
from wandb_workspaces.reports.v2.interface import Block

from fvit.reports.bench.charts import Benchmark
from fvit.reports.dashboard.benchmark import JOB_TYPE, chart_table
from fvit.reports.dashboard.panels import ACCURACY, PanelSection, benchmark_section, config_key, training_sections

# Job types that no panel of training shows: of fvit-eval and fvit-cascade, and with debug=…
_OTHER_JOBS = ["eval", "debug"]
_FAILURES = ["failed", "crashed", "killed"]
# Summary keys next to each run's name in the list of runs.
_PINNED = (ACCURACY, "cost/macs", "cost/params", "throughput/images_per_s")


def build_workspace(config: dict[str, Any], entity: str, benchmark: Benchmark | None) -> ws.Workspace:
    """Our sections, open and first, followed by W&B's automatic panels of all other metrics.

    Args:
        config: of `fvit-dashboard`.
        entity: owner of the project; empty if unknown.
        benchmark: whose charts to include.
    """
    sections = training_sections(config["group_by"], config["settings"])
    if benchmark is not None:
        sections.append(benchmark_section(benchmark))
    # Panels of training runs lack what benchmarks log, and the other way round.
    hidden = _OTHER_JOBS if benchmark is not None else [*_OTHER_JOBS, JOB_TYPE]
    columns = [f"config:{config_key(config['group_by'])}", *(f"summary:{key}" for key in _PINNED)]
    return ws.Workspace(
        entity=entity,
        project=config["project"],
        name=config["name"],
        sections=[_workspace_section(section) for section in sections],
        settings=ws.WorkspaceSettings(max_runs=100),
        runset_settings=ws.RunsetSettings(
            filters=_without(hidden),
            order=[expr.Ordering(expr.Summary(ACCURACY), ascending=False)],
            pinned_columns=columns,
        ),
        auto_generate_panels=True,
    )


def build_report(config: dict[str, Any], entity: str, benchmark: Benchmark | None) -> wr.Report:
    """The same panels with explanations, and tables of the benchmark. Arguments as of `build_workspace`."""
    training = _without([*_OTHER_JOBS, JOB_TYPE])
    blocks: list[Block] = [wr.TableOfContents()]
    for section in training_sections(config["group_by"], config["settings"]):
        blocks += _report_blocks(section, training)
    if benchmark is not None:
        blocks += _report_blocks(benchmark_section(benchmark), expr.And(expr.Metric("Group") == benchmark.name))
        for table in map(chart_table, benchmark.charts):
            blocks += [wr.H2(table.title), wr.MarkdownBlock(table.to_markdown())]
    return wr.Report(
        project=config["project"],
        entity=entity,  # the default would ask the server
        title=config["name"],
        description=f"Runs of {config['project']} by {config['group_by']}.",
        blocks=blocks,
        width="fluid",
    )


def specification(view: ws.Workspace | wr.Report) -> dict[str, Any]:
    """What its ``save`` sends to the server. The library has only this private method for it."""
    return view._to_model().model_dump(mode="json", by_alias=True, exclude_none=True)


def _without(job_types: list[str]) -> expr.And:
    """Without runs of these types and failed ones; runs that are still running are shown."""
    return expr.And(expr.Metric("JobType").notin(job_types), expr.Metric("State").notin(_FAILURES))


def _workspace_section(section: PanelSection) -> ws.Section:
    rows = -(-len(section.panels) // section.columns)
    layout = ws.SectionLayoutSettings(columns=section.columns, rows=rows)
    return ws.Section(name=section.title, panels=section.panels, is_open=True, pinned=True, layout_settings=layout)


def _report_blocks(section: PanelSection, runs: expr.And) -> list[Block]:
    """Without entity and project a runset is the report's own; with them the library would ask the server."""
    runset = wr.Runset(filters=runs, order=[wr.OrderBy(wr.SummaryMetric(ACCURACY), ascending=False)])
    return [wr.H1(section.title), wr.P(section.text), wr.PanelGrid(runsets=[runset], panels=section.panels)]
