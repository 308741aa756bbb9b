"""The sections of panels that the workspace and the report on Weights & Biases share."""

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

import wandb_workspaces.reports.v2 as wr
from wandb_workspaces.reports.v2.interface import Panel

from fvit.reports.bench.charts import Benchmark, Chart
from fvit.reports.dashboard.benchmark import metric_name, size_name

# In the summary of a run.
ACCURACY = "best/val/acc1"
# In its history. As the x axis it makes runs with different batch sizes comparable.
IMAGES_SEEN = "progress/images_seen"

# Metric, title, and whether its axis is logarithmic.
_LEARNING = (
    ("val/acc1", "Validation accuracy", False),
    ("val/loss", "Validation loss", True),
    ("train/acc1", "Training accuracy", False),
    ("train/loss", "Training loss", True),
    ("lr", "Learning rate", False),
    ("grad_norm", "Gradient norm before clipping", True),
)
_EFFICIENCY = (
    ("throughput/images_per_s", "Training throughput, images/s", False),
    ("throughput/data_wait", "Data wait, fraction of the time", False),
    ("memory/peak_gib", "Peak memory, GiB", False),
)
_COSTS = (
    ("cost/macs", "MACs per image", True),
    ("throughput/images_per_s", "training throughput, images/s", True),
    ("cost/params", "parameters", True),
    ("memory/peak_gib", "peak training memory, GiB", False),
)
# What `fvit.loggers.wandb_media` logs.
_PREDICTIONS, _CONFUSION = "val/predictions", "val/confusion_table"
_MAPS = ("query", "key", "map", "jacobian")
# Settings with a logarithmic axis.
_LOGARITHMIC = {"optimizer.lr", "optimizer.weight_decay"}
# W&B's default is ten.
_MAX_RUNS = 100


@dataclass(frozen=True)
class PanelSection:
    """Panels under a title, in `columns`, with a text that explains them."""

    title: str
    text: str
    panels: list[Panel] = field(repr=False)
    columns: int = 3


def training_sections(group_by: str, settings: Sequence[str]) -> list[PanelSection]:
    """Panels of what training runs log.

    Args:
        group_by: dotted config key; runs with the same value are averaged into one curve.
        settings: dotted config keys for the axes of the parallel coordinates.
    """
    grouping = {
        "groupby": wr.Config(config_key(group_by)),
        "groupby_aggfunc": "mean",
        "groupby_rangefunc": "minmax",
        "max_runs_to_show": _MAX_RUNS,
    }
    best_by_group = wr.BarPlot(
        title=f"Best-epoch accuracy by {group_by}", metrics=[ACCURACY], max_bars_to_show=_MAX_RUNS, **grouping
    )
    return [
        PanelSection(
            "Accuracy against cost",
            "One dot per run. Accuracy is that of the best epoch, chosen on the set it is measured on, hence "
            "optimistic. Throughput and memory were measured during training, on the machine of that run.",
            [_scatter_plot(*row) for row in _COSTS],
            columns=2,
        ),
        PanelSection(
            "Learning",
            f"One curve per value of {group_by}: the mean over its runs, usually seeds, with a band from their "
            f"minimum to their maximum. Runs that share the value of {group_by} are averaged whatever else differs.",
            [best_by_group, *(_learning_curve(*row, grouping) for row in _LEARNING)],
        ),
        PanelSection(
            "Settings",
            f"One line per run through its settings to its {ACCURACY}. Parameter importance is W&B's estimate.",
            [_parallel_plot(settings), wr.ParameterImportancePlot(with_respect_to=ACCURACY, layout=_full_width(8))],
            columns=1,
        ),
        PanelSection(
            "Predictions",
            "Of the selected runs: validation images with their predictions, the most confident mistakes, and which "
            "classes are taken for which.",
            [
                wr.WeavePanelSummaryTable(table_name=_PREDICTIONS, layout=_full_width(14)),
                _confusion_matrix(),
            ],
            columns=1,
        ),
        PanelSection(
            "Attention maps",
            "Of the same validation images at several times in training: α (query) and β (key) of additive attention, "
            "the map or the Jacobian of others.",
            [
                wr.MediaBrowser(title=f"Attention: {name}", num_columns=2, media_keys=[f"attention/{name}"])
                for name in _MAPS
            ],
            columns=2,
        ),
        PanelSection(
            "Throughput and memory",
            "During training, averaged as the learning curves are.",
            [_learning_curve(*row, grouping) for row in _EFFICIENCY],
        ),
        PanelSection(
            "Run comparison",
            "Differences between the configs and summaries of the selected runs.",
            [wr.RunComparer(diff_only="split", layout=_full_width(16))],
            columns=1,
        ),
    ]


def benchmark_section(benchmark: Benchmark) -> PanelSection:
    """Panels of what `log_candidates` logs."""
    panels = [_chart_panel(chart) for chart in benchmark.charts]
    return PanelSection(f"Cost measured by fvit-bench, {benchmark.name}", benchmark.note, panels)


def config_key(dotted: str) -> str:
    """A config key as W&B stores it. Its own library fails on keys with a part called ``value``."""
    first, *rest = dotted.split(".")
    return ".".join([first, "value", *rest])


def _learning_curve(metric: str, title: str, log_y: bool, grouping: dict[str, Any]) -> wr.LinePlot:
    return wr.LinePlot(title=title, x=IMAGES_SEEN, y=[metric], log_y=log_y, title_x="images seen", **grouping)


def _scatter_plot(metric: str, name: str, log_x: bool) -> wr.ScatterPlot:
    return wr.ScatterPlot(
        title=f"Accuracy against {name}",
        x=wr.SummaryMetric(metric),
        y=wr.SummaryMetric(ACCURACY),
        log_x=log_x,
        layout=wr.Layout(0, 0, 12, 8),
    )


def _confusion_matrix() -> wr.CustomChart:
    """The chart that `wandb.plot.confusion_matrix` draws from its table."""
    return wr.CustomChart(
        query={"summaryTable": {"tableKey": _CONFUSION}},
        chart_name="wandb/confusion_matrix/v1",
        chart_fields={name: name for name in ("Actual", "Predicted", "nPredictions")},
        chart_strings={"title": "Confusion matrix of the validation set"},
        layout=wr.Layout(0, 14, 24, 12),
    )


def _chart_panel(chart: Chart) -> Panel:
    """Curves over the sizes, or bars for a single size."""
    title, metric = f"{chart.title}, {chart.unit}", metric_name(chart)
    if chart.axis is None:
        return wr.BarPlot(title=title, metrics=[metric], max_runs_to_show=_MAX_RUNS, max_bars_to_show=_MAX_RUNS)
    return wr.LinePlot(
        title=title,
        x=size_name(chart),
        y=[metric],
        log_x=True,
        log_y=True,
        title_x=chart.axis,
        max_runs_to_show=_MAX_RUNS,
    )


def _parallel_plot(settings: Sequence[str]) -> wr.ParallelCoordinatesPlot:
    axes = [wr.ParallelCoordinatesPlotColumn(wr.Config(key), key, log=key in _LOGARITHMIC) for key in settings]
    axes.append(wr.ParallelCoordinatesPlotColumn(wr.SummaryMetric(ACCURACY)))
    return wr.ParallelCoordinatesPlot(title="Settings and accuracy", columns=axes, layout=_full_width(10))


def _full_width(height: int) -> wr.Layout:
    """A report has 24 columns."""
    return wr.Layout(0, 0, 24, height)
