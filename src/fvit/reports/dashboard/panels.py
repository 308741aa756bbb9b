"""Which metric goes into which panel: the sections that the workspace and the report share."""

from collections.abc import Sequence
from dataclasses import dataclass, field

import wandb_workspaces.reports.v2 as wr
from wandb_workspaces.reports.v2.interface import Panel

from fvit.reports.bench.charts import Chart
from fvit.reports.dashboard import costs
from fvit.reports.runs.costs import Benchmark

# Of a run's summary.
ACCURACY = "best/val/acc1"
# Of its history: what curves are drawn over, so that runs with different batches compare.
SEEN = "progress/images_seen"

# Metric, title, and the scale of its axis.
_CURVES = (
    ("val/acc1", "Validation accuracy", "linear"),
    ("val/loss", "Validation loss", "log"),
    ("train/loss", "Training loss", "log"),
    ("lr", "Learning rate", "linear"),
    ("grad_norm", "Norm of the gradient, before it is clipped", "log"),
)
_SPEEDS = (
    ("throughput/images_per_s", "Images a second in training", "linear"),
    ("throughput/data_wait", "Share of the time spent waiting for images", "linear"),
    ("memory/peak_gib", "Peak of memory, GiB", "linear"),
)
_COSTS = (
    ("cost/macs", "multiply-accumulates of one image"),
    ("throughput/images_per_s", "images a second in training"),
    ("cost/params", "parameters"),
    ("memory/peak_gib", "peak of memory in training, GiB"),
)
# Settings that are tried by decades.
_BY_DECADES = {"optimizer.lr", "optimizer.weight_decay"}
# W&B draws ten of each otherwise.
_MOST_RUNS = 100


@dataclass(frozen=True)
class Section:
    """Panels under a title, `columns` of them side by side, and a sentence on how to read them."""

    title: str
    text: str
    panels: list[Panel] = field(repr=False)
    columns: int = 3


def sections(group_by: str, settings: Sequence[str]) -> list[Section]:
    """What training runs have logged.

    Args:
        group_by: a dotted key of the runs' configuration. Runs that share its value become one curve.
        settings: dotted keys of the runs' configuration: the axes of the parallel coordinates.
    """
    return [
        Section(
            "Accuracy against cost",
            "A dot a run. Accuracy is that of the best epoch, chosen on the images it is measured on, which is "
            "optimistic. Speed and memory are those of the training itself, on the machine it ran on.",
            [_against(metric, name) for metric, name in _COSTS],
            columns=2,
        ),
        Section(
            "Learning",
            f"A curve for each value of {group_by}: the mean over its runs, which are its seeds, and a band from the "
            "lowest of them to the highest. Runs that differ in more than their seed are averaged as well if they "
            f"share the value of {group_by}.",
            [_leaders(group_by), *(_curve(*row, group_by) for row in _CURVES)],
        ),
        Section(
            "What was varied",
            f"A line a run, through what it was set to, to its {ACCURACY}. The importance is W&B's own estimate.",
            [_parallel(settings), wr.ParameterImportancePlot(with_respect_to=ACCURACY, layout=_wide(8))],
            columns=1,
        ),
        Section(
            "Speed and memory",
            "Over the training; averaged as the curves of learning are.",
            [_curve(*row, group_by) for row in _SPEEDS],
        ),
        Section(
            "Run by run",
            "In what the runs that are shown differ: their configurations and summaries.",
            [wr.RunComparer(diff_only="split", layout=_wide(16))],
            columns=1,
        ),
    ]


def cost_section(benchmark: Benchmark) -> Section:
    """What the candidates of a benchmark have logged, each a run."""
    return Section(
        f"Cost, measured by fvit-bench, {costs.group(benchmark)}",
        benchmark.note,
        [_cost(chart) for chart in benchmark.charts],
    )


def config_key(dotted: str) -> str:
    """A key of a run's configuration as W&B stores it; its library gets those wrong in which a part is ``value``."""
    first, *rest = dotted.split(".")
    return ".".join([first, "value", *rest])


def _curve(metric: str, title: str, scale: str, group_by: str) -> wr.LinePlot:
    return wr.LinePlot(
        title=title,
        x=SEEN,
        y=[metric],
        log_y=scale == "log",
        title_x="images seen",
        groupby=wr.Config(config_key(group_by)),
        groupby_aggfunc="mean",
        groupby_rangefunc="minmax",
        max_runs_to_show=_MOST_RUNS,
    )


def _leaders(group_by: str) -> wr.BarPlot:
    return wr.BarPlot(
        title=f"Best epoch's accuracy by {group_by}",
        metrics=[ACCURACY],
        groupby=wr.Config(config_key(group_by)),
        groupby_aggfunc="mean",
        groupby_rangefunc="minmax",
        max_runs_to_show=_MOST_RUNS,
        max_bars_to_show=_MOST_RUNS,
    )


def _against(metric: str, name: str) -> wr.ScatterPlot:
    return wr.ScatterPlot(
        title=f"Accuracy against {name}",
        x=wr.SummaryMetric(metric),
        y=wr.SummaryMetric(ACCURACY),
        log_x=metric != "memory/peak_gib",
        layout=wr.Layout(0, 0, 12, 8),
    )


def _cost(chart: Chart) -> Panel:
    """Curves over the sizes, or bars where there is one."""
    title, limit = f"{chart.title}, {chart.unit}", {"max_runs_to_show": _MOST_RUNS}
    if chart.axis is None:
        return wr.BarPlot(title=title, metrics=[costs.metric(chart)], max_bars_to_show=_MOST_RUNS, **limit)
    return wr.LinePlot(
        title=title,
        x=costs.axis(chart),
        y=[costs.metric(chart)],
        log_x=True,
        log_y=True,
        title_x=chart.axis,
        **limit,
    )


def _parallel(settings: Sequence[str]) -> wr.ParallelCoordinatesPlot:
    axes = [wr.ParallelCoordinatesPlotColumn(wr.Config(key), key, log=key in _BY_DECADES) for key in settings]
    axes.append(wr.ParallelCoordinatesPlotColumn(wr.SummaryMetric(ACCURACY)))
    return wr.ParallelCoordinatesPlot(title="Settings and accuracy", columns=axes, layout=_wide(10))


def _wide(height: int) -> wr.Layout:
    """The whole width of a report, which has 24 columns."""
    return wr.Layout(0, 0, 24, height)
