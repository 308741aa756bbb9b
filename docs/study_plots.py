"""The pictures of docs/study.md."""

import statistics
from pathlib import Path

import matplotlib.pyplot as plt
from study_runs import BASELINE, RELATIONS, TASKS, Line, accuracies, curves, ranked

from fvit.reports.runs.plots import pareto_front

CONTROLS = ("identity", "pool", "separable convolution")
COLOURS = {"additive attention": "#d1495b", "other attention": "#00798c", "no attention": "#8a94a0"}


def colour(name: str) -> str:
    """That of its kind."""
    if name.startswith("additive"):
        return COLOURS["additive attention"]
    return COLOURS["no attention" if name in CONTROLS else "other attention"]


def draw_overview(studies: dict[str, dict[str, list[Line]]], out: Path) -> None:
    """A panel for each task and a row for each mechanism that ran on all: a dot for each run, a bar at means.

    Variants that ran on one task alone are in its table; where runs learn all or nothing, a mean says little.
    """
    tasks = list(studies)
    rows = [name for name, _ in ranked(studies[tasks[0]]) if all(name in studies[task] for task in tasks)][::-1]
    shape = dict(figsize=(9, 0.9 + 0.25 * len(rows)), width_ratios=[1.6, *[1] * (len(tasks) - 1)], squeeze=False)
    figure, panels = plt.subplots(1, len(tasks), sharey=True, layout="constrained", **shape)
    for axes, task in zip(panels[0], tasks, strict=True):
        for row, name in enumerate(rows):
            values = accuracies(studies[task].get(name, []))
            axes.plot(values, [row] * len(values), "o", color=colour(name), alpha=0.45, markersize=5, markeredgewidth=0)
            if values and task not in RELATIONS:
                axes.plot(statistics.mean(values), row, "|", color=colour(name), ms=13, mew=2)
        axes.set_title(TASKS[task], fontsize=10)
        axes.set(xlabel="top-1 accuracy, %", yticks=range(len(rows)), yticklabels=rows, ylim=(-0.6, len(rows) - 0.4))
        if task != tasks[0]:
            axes.set(xlim=(15, 105))
            axes.axvline(25, color="#8a94a0", linewidth=1, linestyle=":")
        tidy(axes)
        axes.tick_params(axis="y", length=0)
    kinds = [plt.Line2D([], [], color=value, marker="o", linestyle="", label=kind) for kind, value in COLOURS.items()]
    panels[0][0].legend(handles=kinds, loc="lower right", fontsize=8)
    save(figure, out)


def draw_curves(contenders: dict[str, list[Line]], out: Path, means: bool = True) -> str:
    """Accuracy after each epoch, mean over seeds or of each, of ten mechanisms evenly chosen by rank; the caption."""
    order = ranked(contenders)
    chosen = [order[round(i * (len(order) - 1) / 9)] for i in range(10)] if len(order) > 10 else order  # ten colours
    figure, axes = plt.subplots(figsize=(7, 3.8), layout="constrained")
    for index, (name, lines) in enumerate(chosen):
        runs = [[statistics.mean(values) for values in zip(*curves(lines), strict=True)]] if means else curves(lines)
        style = "-" if colour(name) == COLOURS["other attention"] else "--" if name in CONTROLS else "-."
        for number, run in enumerate(runs):
            label = {"label": name} if not number else {}
            axes.plot(range(1, len(run) + 1), run, style, color=f"C{index}", marker="o", markersize=3, **label)
    axes.set(xlabel="epoch", ylabel="top-1 accuracy, %", xticks=range(1, len(runs[0]) + 1))
    axes.legend(bbox_to_anchor=(1.01, 1), loc="upper left", frameon=False, fontsize=8)
    tidy(axes)
    save(figure, out)
    return "Accuracy after each epoch" if means else "Accuracy of each run after each epoch"


def draw_cost(contenders: dict[str, list[Line]], out: Path) -> str:
    """Mean accuracy over MACs; named are softmax and those dominated by none; returns the caption."""
    points = [(int(lines[0]["macs"]) / 1e6, statistics.mean(accuracies(lines))) for lines in contenders.values()]
    figure, axes = plt.subplots(figsize=(7, 4.2), layout="constrained")
    front = pareto_front(points)
    for i, (name, point) in enumerate(zip(contenders, points, strict=True)):
        axes.plot(*point, "o", color=colour(name), markersize=5)
        if i in front or name == BASELINE:
            axes.annotate(name, point, xytext=(4, 3), textcoords="offset points", fontsize=7)
    axes.step(*zip(*(points[i] for i in front), strict=True), where="post", color="#edae49", linewidth=1, zorder=0)
    axes.set(xlabel="million MACs per image", ylabel="top-1 accuracy, %")
    axes.margins(x=0.15)
    tidy(axes)
    save(figure, out)
    return "Accuracy over MACs, with the Pareto front"


def tidy(axes: plt.Axes) -> None:
    """No frame, and a faint grid."""
    axes.grid(alpha=0.25)
    axes.spines[["top", "right", "left"]].set_visible(False)


def save(figure: plt.Figure, out: Path) -> None:
    """Without a date, so that the same results make the same file."""
    with plt.rc_context({"svg.hashsalt": "fvit"}):
        figure.savefig(out, metadata={"Date": None})
    plt.close(figure)
