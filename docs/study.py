"""Write the tables and pictures of docs/study.md from docs/study/*.csv: `make study`."""

import csv
import math
import re
import statistics
from collections import defaultdict
from collections.abc import Callable, Sequence
from functools import partial
from pathlib import Path

import matplotlib.pyplot as plt
from scipy.stats import spearmanr, t

from fvit.reports.runs.groups import mean_ci
from fvit.reports.runs.plots import pareto_front

DOCS = Path(__file__).resolve().parent
BASELINE = "softmax"
SEARCH_SEED = "1000"
EPOCHS = {"cifar10": "4", "lookup": "12", "pointer": "20"}
"""Of conf/experiment and benchmarks/study.py; other runs are longer."""
SPEED_OF = {"pointer": "lookup"}  # the same models
RELATIONS = ("lookup", "pointer")
"""Learned suddenly or not at all: accuracies are not normally distributed, and those of all seeds are listed."""
TASKS = {"cifar10": "CIFAR-10", "lookup": "Lookup (chance 25 %)", "pointer": "Pointer (chance 25 %)"}

TAKE_CONV = ("softmax", "linear", "additive", "mhla", "hydra", "ttt", "circulant", "xca", "focused")
PAIRS = [
    *((f"{name} + conv", name) for name in TAKE_CONV),
    *((f"additive + {name}", "additive") for name in ("regions", "gate", "separate value", "projection")),
    ("additive, no query", "additive"),
    *(("additive_plus + gate", f"additive_plus + gate, no {name}") for name in ("conv", "regions", "separate value")),
    *(("additive_plus", f"additive_plus, no {name}") for name in ("regions", "separate value")),
    *((f"additive_plus + {name}", "additive_plus") for name in ("gate", "query")),
    ("additive_plus", "additive + regions + conv"),
    ("additive_plus", "softmax + conv"),
    *((f"{name}, class token", name) for name in ("softmax", "additive")),
    ("softmax, then additive", "additive, then softmax"),
    ("additive, then softmax", "additive"),
    *((name, "identity") for name in ("softmax", "circulant", "pool", "ttt", "additive", "additive, no query")),
]

Line = dict[str, str]


def main() -> None:
    """Draw what there are results of, and replace what stands between the markers of each study and axis."""
    plt.rcParams["svg.hashsalt"] = "fvit"
    page = DOCS / "study.md"
    text = page.read_text(encoding="utf-8")
    at_equal_macs = {}
    for name in TASKS:
        lines = read(DOCS / "study" / f"{name}.csv")
        usual = [line for line in lines if line["epochs"] == EPOCHS[name]]
        if equal_macs := by_contender(usual, "macs"):
            at_equal_macs[name] = equal_macs
        macs_speed, shape_speed = (speed(SPEED_OF.get(name, name), match) for match in ("macs", "shape"))
        longer = by_contender([line for line in lines if line not in usual], "macs")
        normal = name not in RELATIONS
        curves_out, cost_out = (DOCS / f"study_{name}_{axis}.svg" for axis in ("macs", "shape"))
        shown = {
            "macs": section(equal_macs, macs_speed, normal, partial(draw_curves, means=normal), curves_out),
            "shape": section(by_contender(usual, "shape"), shape_speed, normal, draw_cost, cost_out),
            "longer": section(longer, macs_speed, normal),
            "pairs": render_pairs(equal_macs),
            "search": render_search(searches(lines)),
        }
        for part, content in shown.items():
            text = replaced(text, f"{name} {part}", content)
    if at_equal_macs:
        draw_overview(at_equal_macs, DOCS / "study.svg")
    page.write_text(text, encoding="utf-8")


def section(
    contenders: dict[str, list[Line]],
    speeds: dict[str, str],
    normal: bool = True,
    draw: Callable | None = None,
    picture: Path | None = None,
) -> str:
    """A table, its power if accuracies are normally distributed, and a picture with the caption that `draw` returns."""
    if not contenders:
        return "Not run yet.\n"
    parts = [render(contenders, speeds, normal), *([power(contenders), stability(contenders)] if normal else [])]
    if draw:
        parts.append(f"![{draw(contenders, picture)}]({picture.name})")
    return "\n\n".join(filter(None, parts)) + "\n"


def read(results: Path) -> list[Line]:
    """The runs of a study, none if there is no file."""
    if not results.is_file():
        return []
    with results.open(encoding="utf-8", newline="") as file:
        return list(csv.DictReader(file))


def speed(study: str, match: str) -> dict[str, str]:
    """Of training, relative to softmax, by contender."""
    lines = read(DOCS / "study" / "speed.csv")
    return {line["contender"]: line["speed"] for line in lines if (line["study"], line["match"]) == (study, match)}


def by_contender(lines: Sequence[Line], match: str) -> dict[str, list[Line]]:
    """The runs at the same MACs, or with the same shape, among them those that matching left as they were."""
    width = next((line["width"] for line in lines if line["contender"] == BASELINE), None)
    found = defaultdict(list)
    for line in lines:
        counts = line["match"] == match or (match == "shape" and line["width"] == width)
        if counts and line["seed"] != SEARCH_SEED:
            found[line["contender"]].append(line)
    # One table does not mix the axes: without runs of its own, "shape" has none.
    return dict(found) if any(line["match"] == match for line in lines) else {}


def searches(lines: Sequence[Line]) -> dict[str, list[Line]]:
    """The runs that searched for learning rates."""
    found = defaultdict(list)
    for line in lines:
        if line["seed"] == SEARCH_SEED:
            found[line["contender"]].append(line)
    return dict(found)


def replaced(text: str, part: str, content: str) -> str:
    """The page with this content between the markers of a part, if it has them."""
    begin, end = f"<!-- {part}: written by `make study` -->\n", f"<!-- /{part} -->"
    pattern = re.escape(begin) + ".*?" + re.escape(end)
    return re.sub(pattern, lambda _: begin + content + end, text, flags=re.DOTALL)


def render_search(contenders: dict[str, list[Line]]) -> str:
    """A row per mechanism, with its accuracy at each learning rate; the best in bold."""
    if not contenders:
        return "Not run yet.\n"
    rates = sorted({line["lr"] for lines in contenders.values() for line in lines}, key=float)
    rows = [f"| attention | {' | '.join(f'lr {rate}' for rate in rates)} |", "|---" * (len(rates) + 1) + "|"]
    best = {name: max(accuracies(lines)) for name, lines in contenders.items()}
    for name in sorted(best, key=lambda name: -best[name]):
        found = {line["lr"]: 100 * float(line["acc1"]) for line in contenders[name]}
        cells = (f"{found[rate]:.2f}" if rate in found else "" for rate in rates)
        cells = (f"**{cell}**" if cell == f"{best[name]:.2f}" else cell for cell in cells)
        rows.append(f"| {name} | {' | '.join(cells)} |")
    return "\n".join(rows) + "\n"


def render(contenders: dict[str, list[Line]], speeds: dict[str, str], normal: bool = True) -> str:
    """A table, best first.

    Args:
        contenders: their runs.
        speeds: of training, relative to softmax, where it has been measured.
        normal: show means and intervals, or else the accuracy of each seed.
    """
    head = ["attention", "seeds", "accuracy, %", *(["s.d.", "vs softmax, points"] if normal else ["each seed"])]
    head += ["width", "params, M", "MACs, M", "lr", "speed"]
    rows = [f"| {' | '.join(head)} |", "|---" * len(head) + "|"]
    for name, lines in ranked(contenders):
        values = accuracies(lines)
        first = lines[0]
        if normal:
            spread = f"{statistics.stdev(values):.2f}" if len(values) > 1 else ""
            paired = differences(lines, contenders.get(BASELINE, [])) if name != BASELINE else []
            accuracy = f"{interval(values)} | {spread} | {interval(paired, '+') if paired else ''}"
        else:
            seeds = accuracies(sorted(lines, key=lambda line: line["seed"]))
            accuracy = f"{statistics.mean(values):.2f} | {', '.join(f'{value:.0f}' for value in seeds)}"
        rows.append(
            f"| {name} | {len(values)} | {accuracy} | {first['width']} | {int(first['params']) / 1e6:.3f} | "
            f"{int(first['macs']) / 1e6:.2f} | {first['lr']} | "
            f"{f'{float(speeds[name]):.2f}' if name in speeds else ''} |"
        )
    return "\n".join(rows)


def ranked(contenders: dict[str, list[Line]]) -> list[tuple[str, list[Line]]]:
    """The best first."""
    return sorted(contenders.items(), key=lambda item: -statistics.mean(accuracies(item[1])))


def accuracies(lines: Sequence[Line]) -> list[float]:
    """In percent."""
    return [100 * float(line["acc1"]) for line in lines]


def curves(lines: Sequence[Line]) -> list[list[float]]:
    """Of each run, the accuracy after each epoch, in percent."""
    return [[100 * float(value) for value in line["acc1_by_epoch"].split()] for line in lines]


def interval(values: Sequence[float], sign: str = "") -> str:
    """Mean ± half of its 95 % interval (Student's t)."""
    found = mean_ci(values)
    return f"{found.mean:{sign}.2f}" + (f" ± {found.half_width:.2f}" if len(values) > 1 else "")


def differences(lines: Sequence[Line], others: Sequence[Line]) -> list[float]:
    """In points, paired by seed: the same images in the same order, evaluated on the same test images."""
    theirs = {line["seed"]: float(line["acc1"]) for line in others}
    return [100 * (float(line["acc1"]) - theirs[line["seed"]]) for line in lines if line["seed"] in theirs]


def render_pairs(contenders: dict[str, list[Line]]) -> str:
    """A row for each of `PAIRS`: what the first has more than the second."""
    rows = ["| attention | less | seeds | difference, points | each seed |", "|---|---|---|---|---|"]
    for name, other in PAIRS:
        if found := differences(contenders.get(name, []), contenders.get(other, [])):
            each = ", ".join(f"{value:+.1f}" for value in found)
            rows.append(f"| {name} | {other} | {len(found)} | {interval(found, '+')} | {each} |")
    return "\n".join(rows) + "\n" if len(rows) > 2 else "Not run yet.\n"


def power(contenders: dict[str, list[Line]]) -> str:
    """The smallest difference between two means that a two-sided test at 5 % finds with a probability of 80 %."""
    groups = [accuracies(lines) for lines in contenders.values() if len(lines) > 1]
    freedom = sum(len(group) - 1 for group in groups)
    if not freedom:
        return "Too few seeds to state what differences can be seen."
    pooled = math.sqrt(sum(statistics.variance(group) * (len(group) - 1) for group in groups) / freedom)
    factor = float(t.ppf(0.975, freedom) + t.ppf(0.8, freedom))
    smallest = {n: factor * pooled * math.sqrt(2 / n) for n in (3, 5)}
    return (
        f"Standard deviation over seeds, pooled: {pooled:.2f} points ({freedom} degrees of freedom). With it, a "
        f"difference of {smallest[3]:.1f} points is found with a probability of 80 % by three seeds each, and one of "
        f"{smallest[5]:.1f} points by five."
    )


def stability(contenders: dict[str, list[Line]]) -> str:
    """The rank correlation between accuracies halfway and at the end."""
    if len(contenders) < 3:
        return ""
    halfway = [
        statistics.mean(curve[(len(curve) - 1) // 2] for curve in curves(lines)) for lines in contenders.values()
    ]
    final = [statistics.mean(accuracies(lines)) for lines in contenders.values()]
    return (
        f"Spearman's rank correlation between the accuracies halfway and at the end, over {len(contenders)} rows: "
        f"{spearmanr(halfway, final).statistic:.2f}."
    )


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
    figure.savefig(out, metadata={"Date": None})
    plt.close(figure)


if __name__ == "__main__":
    main()
