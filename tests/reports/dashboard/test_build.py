import pytest
import wandb_workspaces.reports.v2 as wr
import wandb_workspaces.workspaces as ws
from wandb_workspaces.reports.v2 import internal as report_models
from wandb_workspaces.workspaces import internal as workspace_models

from fvit.reports.dashboard import build
from fvit.reports.dashboard.specification import specification

CONFIG = {"project": "fvit", "name": "Compared", "group_by": "title", "settings": ["model.attention.name", "seed"]}
PANELS = {
    "Run History Line Plot",
    "Scatter Plot",
    "Parallel Coordinates Plot",
    "Parameter Importance",
    "Bar Chart",
    "Run Comparer",
}


@pytest.fixture
def benchmark(benchmark_of, tmp_path):
    return benchmark_of(tmp_path / "2026")


@pytest.fixture
def workspace(benchmark):
    return build.workspace(CONFIG, "me", benchmark)


@pytest.fixture
def report(benchmark):
    return build.report(CONFIG, "me", benchmark)


def kinds(node):
    """The types of all panels in a specification."""
    children = node.values() if isinstance(node, dict) else node if isinstance(node, list) else ()
    own = {node["viewType"]} if isinstance(node, dict) and "viewType" in node else set()
    return own.union(*map(kinds, children))


def test_wandbs_models_read_the_specification_back(workspace, report):
    for made, model in ((workspace, workspace_models.View), (report, report_models.ReportViewspec)):
        read = model.model_validate(specification(made))
        assert kinds(read.model_dump(mode="json", by_alias=True)) == PANELS


def test_what_is_read_back_is_the_same_dashboard(workspace, report):
    told = specification(workspace)
    read = ws.Workspace._from_model(workspace_models.View.model_validate(told))
    assert specification(read) == told
    # One that is none of W&B's would be read as an UnknownPanel.
    for before, after in zip(workspace.sections, read.sections, strict=True):
        assert [type(panel) for panel in after.panels] == [type(panel) for panel in before.panels]
    told = specification(report)
    read = wr.Report._from_model(report_models.ReportViewspec.model_validate(told))
    read.width = report.width  # which the library does not read
    assert specification(read) == told


def test_a_panel_that_is_none_of_wandbs_is_noticed(workspace):
    told = specification(workspace)
    told["spec"]["section"]["panelBankConfig"]["sections"][1]["panels"][1]["config"]["metrics"] = 1
    read = ws.Workspace._from_model(workspace_models.View.model_validate(told))
    assert [type(panel).__name__ for panel in read.sections[1].panels[:3]] == ["BarPlot", "UnknownPanel", "LinePlot"]


def test_both_have_the_same_sections_and_the_report_tables_of_cost(workspace, report):
    names = [section.name for section in workspace.sections]
    assert names == [
        "Accuracy against cost",
        "Learning",
        "What was varied",
        "Speed and memory",
        "Run by run",
        "Cost, measured by fvit-bench, 2026",
    ]
    assert [block.text for block in report.blocks if isinstance(block, wr.H1)] == names
    [latency, _] = [block.text for block in report.blocks if isinstance(block, wr.MarkdownBlock)]
    assert "| 577, 384 px | 1,154 | 1,154 |" in latency


def test_without_a_benchmark_there_is_no_cost_section():
    assert [one.name for one in build.workspace(CONFIG, "", None).sections][-1] == "Run by run"
    assert not [block for block in build.report(CONFIG, "", None).blocks if isinstance(block, wr.MarkdownBlock)]


def test_no_run_set_of_the_report_names_a_project(report):
    grids = [block for block in report.blocks if isinstance(block, wr.PanelGrid)]
    assert {(runs.entity, runs.project) for grid in grids for runs in grid.runsets} == {("", "")}
    filters = [runs.filters for grid in grids for runs in grid.runsets]
    assert filters == ["""Metric("JobType") != 'bench'"""] * 5 + ["""Metric("Group") == '2026'"""]


def test_panels_of_a_report_do_not_overlap(report):
    for block in report.blocks:
        if isinstance(block, wr.PanelGrid):
            cells = [
                (x, y)
                for layout in (panel.layout for panel in block.panels)
                for x in range(layout.x, layout.x + layout.w)
                for y in range(layout.y, layout.y + layout.h)
            ]
            assert len(cells) == len(set(cells))
            assert max(x for x, _ in cells) < 24
