"""Compares the metrics that panels name with those that runs log to W&B."""

import pytest
import wandb_workspaces.reports.v2 as wr
from hydra import compose, initialize_config_dir

from fvit.config import validation
from fvit.config.paths import conf_dir
from fvit.config.schemas.train import Train
from fvit.reports.dashboard.benchmark import log_candidates
from fvit.reports.dashboard.build import build_report, build_workspace, specification
from fvit.reports.dashboard.panels import config_key
from fvit.train import train
from tests.loggers.wandb_runs import runs
from tests.reports.dashboard.drawn import drawn_by

TINY = ["logger=wandb", "data=fake", "data.num_images=64", "model.embed_dim=24", "model.depth=1", "debug=limit"]


def composed(task, *overrides):
    with initialize_config_dir(str(conf_dir()), version_base="1.3"):
        return compose(task, overrides=list(overrides))


@pytest.fixture(scope="module")
def dashboard():
    """The default config."""
    return dict(composed("dashboard"))


@pytest.fixture(scope="module")
def logged(tmp_path_factory):
    """Config, summary and history of a run of `fvit-train`."""
    folder = tmp_path_factory.mktemp("trained")
    folders = [f"output_dir={folder / 'run'}", f"logger.wandb.save_dir={folder}", "logger.wandb.media=1"]
    train(validation.check(composed("train", *TINY, *folders, "title=test"), Train))
    [run] = runs(folder / "wandb")
    return run.logged


def test_training_runs_log_what_the_panels_draw(dashboard, logged):
    for build in (build_workspace, build_report):
        drawn = drawn_by(specification(build(dashboard, "", None)))
        assert drawn.missing(*logged) == []
        assert {("progress/images_seen", "val/acc1"), ("progress/images_seen", "train/loss")} <= drawn.pairs
        assert {"best/val/acc1", "cost/macs", "throughput/images_per_s"} <= drawn.summary
        assert {"variant", "model.attention.name", "optimizer.lr", "seed"} <= drawn.config
        drawn_media = {key for key in drawn.media if key in logged[1]}
        assert drawn_media == {"val/predictions", "val/confusion_table", "attention/query", "attention/key"}
        assert drawn.media - drawn_media == {"attention/map", "attention/jacobian"}, "of other mechanisms"


def test_a_panel_of_what_is_not_logged_is_noticed(dashboard, logged):
    workspace = build_workspace({**dashboard, "group_by": "titel", "settings": ["optimizer.ls"]}, "", None)
    workspace.sections[0].panels += [
        wr.LinePlot(x="progress/images_seen", y=["val/acc2"]),
        wr.LinePlot(x="val/acc1", y=["train/loss"]),  # both are logged, but never together
        wr.BarPlot(metrics=["best/val/loss"]),
    ]
    assert drawn_by(specification(workspace)).missing(*logged) == [
        ("progress/images_seen", "val/acc2"),
        ("val/acc1", "train/loss"),
        "best/val/loss",
        "optimizer.ls",
        "titel",
    ]


def test_curves_are_means_over_the_runs_of_a_group(dashboard):
    config = {**dashboard, "group_by": "model.attention.value"}
    [learning] = [one for one in build_workspace(config, "", None).sections if one.name == "Learning"]
    panels = [panel._to_model().config for panel in learning.panels]
    # additive has an option called value, besides the one that W&B inserts.
    assert {panel.group_by for panel in panels} == {"model.value.attention.value"}
    assert {(panel.group_agg, panel.group_area, panel.aggregate) for panel in panels} == {("mean", "minmax", True)}
    assert config_key("seed") == "seed.value"


@pytest.mark.parametrize("sizes", [2, 1])
def test_benchmarks_log_what_their_panels_draw(tmp_path, benchmark_of, dashboard, sizes):
    benchmark = benchmark_of(tmp_path / "bench" / "2026", sizes)
    log_candidates(benchmark, "", "fvit", "offline", tmp_path)
    additive, softmax = sorted(runs(tmp_path / "wandb"), key=lambda run: run.path)
    spec = specification(build_workspace(dashboard, "", benchmark))["spec"]
    section = spec["section"]["panelBankConfig"]["sections"][-1]
    assert section["name"] == "Cost measured by fvit-bench, 2026"
    drawn = drawn_by(section["panels"])
    assert drawn.missing(*additive.logged) == drawn.missing(*softmax.logged) == []
    if sizes == 2:
        assert drawn.pairs == {("bench/tokens", "bench/latency_ms"), ("bench/tokens", "bench/macs")}
        assert [row["bench/latency_ms"] for row in additive.rows] == [394, 1154]
    else:
        assert drawn.summary == {"bench/latency_ms", "bench/macs"}
