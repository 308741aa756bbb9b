import pytest
import wandb_workspaces.reports.v2 as wr
import wandb_workspaces.workspaces as ws
from wandb_workspaces.reports.v2 import internal as report_models
from wandb_workspaces.workspaces import internal as workspace_models

from fvit.reports.dashboard.build import build_report, build_workspace, specification

CONFIG = {"project": "fvit", "name": "Compared", "group_by": "variant", "settings": ["model.attention.name", "seed"]}
PANELS = {
    "Run History Line Plot",
    "Scatter Plot",
    "Parallel Coordinates Plot",
    "Parameter Importance",
    "Bar Chart",
    "Run Comparer",
    "Weave",
    "Vega2",
    "Media Browser",
}


@pytest.fixture
def benchmark(benchmark_of, tmp_path):
    return benchmark_of(tmp_path / "2026")


@pytest.fixture
def workspace(benchmark):
    return build_workspace(CONFIG, "me", benchmark)


@pytest.fixture
def report(benchmark):
    return build_report(CONFIG, "me", benchmark)


def panel_types(node):
    """Of all panels in a specification."""
    children = node.values() if isinstance(node, dict) else node if isinstance(node, list) else ()
    own = {node["viewType"]} if isinstance(node, dict) and "viewType" in node else set()
    return own.union(*map(panel_types, children))


def copy_layouts(before, after):
    """Of the tables, which the library does not read."""
    for one, other in zip(before, after, strict=True):
        for panel, read in zip(one.panels, other.panels, strict=True):
            if isinstance(panel, wr.WeavePanelSummaryTable):
                read.layout = panel.layout


def test_wandbs_models_read_the_specifications_back_unchanged(workspace, report):
    assert panel_types(specification(workspace)) == panel_types(specification(report)) == PANELS
    sent = specification(workspace)
    read = ws.Workspace._from_model(workspace_models.View.model_validate(sent))
    copy_layouts(workspace.sections, read.sections)
    assert specification(read) == sent
    # W&B reads a panel that it does not know as an UnknownPanel.
    for before, after in zip(workspace.sections, read.sections, strict=True):
        assert [type(panel) for panel in after.panels] == [type(panel) for panel in before.panels]
    sent = specification(report)
    read = wr.Report._from_model(report_models.ReportViewspec.model_validate(sent))
    read.width = report.width  # which the library does not read
    copy_layouts(*([one for one in view.blocks if isinstance(one, wr.PanelGrid)] for view in (report, read)))
    assert specification(read) == sent


def test_both_have_the_same_sections_and_the_report_tables_of_the_benchmark(workspace, report):
    names = [section.name for section in workspace.sections]
    assert names == [
        "Accuracy against cost",
        "Learning",
        "Settings",
        "Predictions",
        "Attention maps",
        "Throughput and memory",
        "Run comparison",
        "Cost measured by fvit-bench, 2026",
    ]
    assert [block.text for block in report.blocks if isinstance(block, wr.H1)] == names
    [latency, _] = [block.text for block in report.blocks if isinstance(block, wr.MarkdownBlock)]
    assert "| 577, 384 px | 1,154 | 1,154 |" in latency


def test_without_a_benchmark_there_is_no_section_for_it():
    assert [one.name for one in build_workspace(CONFIG, "", None).sections][-1] == "Run comparison"
    assert not [block for block in build_report(CONFIG, "", None).blocks if isinstance(block, wr.MarkdownBlock)]


def test_runsets_of_the_report_name_no_project(report):
    runsets = [one for block in report.blocks if isinstance(block, wr.PanelGrid) for one in block.runsets]
    assert {(one.entity, one.project) for one in runsets} == {("", "")}
    *training, benchmark = [one.filters for one in runsets]
    failures = """Metric("State") not in ['failed', 'crashed', 'killed']"""
    assert training == [f"""Metric("JobType") not in ['eval', 'debug', 'bench'] and {failures}"""] * 7
    assert benchmark == """Metric("Group") == '2026'"""


def test_runs_that_are_no_results_are_filtered_out_of_the_workspace(benchmark):
    with_benchmark, without = (build_workspace(CONFIG, "", one).runset_settings.filters for one in (benchmark, None))
    assert "['eval', 'debug', 'bench'] and" in without
    assert "['eval', 'debug'] and" in with_benchmark, "its panels are in the same workspace"
    assert "Metric(\"State\") not in ['failed', 'crashed', 'killed']" in with_benchmark


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
