"""Every metric that a panel names is one that runs log: held against runs of W&B that were kept here."""

import pytest
import wandb_workspaces.reports.v2 as wr
from hydra import compose, initialize_config_dir

from fvit.config import validation
from fvit.config.paths import conf_dir
from fvit.config.schemas.train import Train
from fvit.reports.dashboard import build, costs
from fvit.reports.dashboard.panels import config_key
from fvit.reports.dashboard.specification import specification
from fvit.train import train
from tests.loggers.wandb_runs import runs
from tests.reports.dashboard.wanted import wanted

TINY = ["logger=wandb", "data=fake", "data.num_images=64", "model.embed_dim=24", "model.depth=1", "debug=limit"]


def composed(task, *overrides):
    with initialize_config_dir(str(conf_dir()), version_base="1.3"):
        return compose(task, overrides=list(overrides))


@pytest.fixture(scope="module")
def dashboard():
    """The configuration as it comes."""
    return dict(composed("dashboard"))


@pytest.fixture(scope="module")
def trained(tmp_path_factory):
    """Configuration, summary and history of a run of `fvit-train`."""
    folder = tmp_path_factory.mktemp("trained")
    places = [f"output_dir={folder / 'run'}", f"logger.wandb.save_dir={folder}", "logger.wandb.media=0"]
    train(validation.check(composed("train", *TINY, *places, "title=test"), Train))
    [kept] = runs(folder / "wandb")
    return kept.logged


def test_a_run_logs_what_the_panels_draw(dashboard, trained):
    for make in (build.workspace, build.report):
        drawn = wanted(specification(make(dashboard, "", None)))
        assert drawn.missing(*trained) == []
        assert {("progress/images_seen", "val/acc1"), ("progress/images_seen", "train/loss")} <= drawn.pairs
        assert {"best/val/acc1", "cost/macs", "throughput/images_per_s"} <= drawn.summary
        assert {"title", "model.attention.name", "optimizer.lr", "seed"} <= drawn.config


def test_a_panel_of_what_no_run_logs_is_found(dashboard, trained):
    section = build.workspace({**dashboard, "group_by": "titel", "settings": ["optimizer.ls"]}, "", None)
    section.sections[0].panels += [
        wr.LinePlot(x="progress/images_seen", y=["val/acc2"]),
        wr.LinePlot(x="val/acc1", y=["train/loss"]),  # both are logged, but never at once
        wr.BarPlot(metrics=["best/val/loss"]),
    ]
    assert wanted(specification(section)).missing(*trained) == [
        ("progress/images_seen", "val/acc2"),
        ("val/acc1", "train/loss"),
        "best/val/loss",
        "optimizer.ls",
        "titel",
    ]


def test_curves_are_means_over_the_runs_of_a_group(dashboard):
    chosen = {**dashboard, "group_by": "model.attention.value"}
    [learning] = [one for one in build.workspace(chosen, "", None).sections if one.name == "Learning"]
    panels = [panel._to_model().config for panel in learning.panels]
    # additive has an option called value, which is not the one that W&B puts in.
    assert {panel.group_by for panel in panels} == {"model.value.attention.value"}
    assert {(panel.group_agg, panel.group_area, panel.aggregate) for panel in panels} == {("mean", "minmax", True)}
    assert config_key("seed") == "seed.value"


@pytest.mark.parametrize("sizes", [2, 1])
def test_a_benchmark_logs_what_its_panels_draw(tmp_path, benchmark_of, dashboard, sizes):
    benchmark = benchmark_of(tmp_path / "bench" / "2026", sizes)
    costs.log(benchmark, "", "fvit", "offline", tmp_path)
    kept = sorted(runs(tmp_path / "wandb"), key=lambda run: run.path)
    assert len(kept) == 2
    drawn = wanted(cost_panels(dashboard, benchmark))
    for run in kept:
        assert drawn.missing(*run.logged) == []
    if sizes == 2:
        assert drawn.pairs == {("bench/tokens", "bench/latency_ms"), ("bench/tokens", "bench/macs")}
        assert [row["bench/latency_ms"] for row in kept[0].rows] == [394, 1154]
    else:
        assert drawn.summary == {"bench/latency_ms", "bench/macs"}


def cost_panels(dashboard, benchmark):
    section = specification(build.workspace(dashboard, "", benchmark))["spec"]["section"]["panelBankConfig"][
        "sections"
    ][-1]
    assert section["name"] == "Cost, measured by fvit-bench, 2026"
    return section["panels"]
