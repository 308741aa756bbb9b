"""Write the tables and pictures of docs/study.md from docs/study/*.csv: `make study`."""

import math
import re
import statistics
from collections.abc import Callable, Sequence
from functools import partial
from pathlib import Path

from scipy.stats import spearmanr, t
from study_plots import draw_cost, draw_curves, draw_overview
from study_runs import (
    BASELINE,
    RELATIONS,
    TASKS,
    Line,
    accuracies,
    by_contender,
    curves,
    differences,
    ranked,
    read,
    searches,
)

from fvit.reports.runs.groups import mean_ci

DOCS = Path(__file__).resolve().parent
SPEED_OF = {"pointer": "lookup"}  # the same models
EPOCHS = {"cifar10": "4", "cifar10_32px": "6", "lookup": "12", "pointer": "20"}
"""Of conf/experiment and benchmarks/study.py; other runs are longer."""

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
    ("additive_plus", "separable convolution"),
    *((f"{name}, class token", name) for name in ("softmax", "additive")),
    ("softmax, then additive", "additive, then softmax"),
    ("additive, then softmax", "additive"),
    *((name, "identity") for name in ("softmax", "circulant", "pool", "ttt", "additive", "additive, no query")),
]


def main() -> None:
    """Draw what there are results of, and replace what stands between the markers of each study and axis."""
    page = DOCS / "study.md"
    text = page.read_text(encoding="utf-8")
    at_equal_macs = {}
    for name in EPOCHS:
        lines = read(DOCS / "study" / f"{name}.csv")
        usual = [line for line in lines if line["epochs"] == EPOCHS[name]]
        equal_macs, drawn = by_contender(usual, "macs"), name in TASKS
        if equal_macs and drawn:
            at_equal_macs[name] = equal_macs
        macs_speed, shape_speed = (speed(SPEED_OF.get(name, name), match) for match in ("macs", "shape"))
        longer = by_contender([line for line in lines if line not in usual], "macs")
        normal = name not in RELATIONS
        curves_out, cost_out = (DOCS / f"study_{name}_{axis}.svg" for axis in ("macs", "shape"))
        shown = {
            "macs": section(equal_macs, macs_speed, normal, drawn and partial(draw_curves, means=normal), curves_out),
            "shape": section(by_contender(usual, "shape"), shape_speed, normal, drawn and draw_cost, cost_out),
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


def speed(study: str, match: str) -> dict[str, str]:
    """Of training, relative to softmax, by contender."""
    lines = read(DOCS / "study" / "speed.csv")
    return {line["contender"]: line["speed"] for line in lines if (line["study"], line["match"]) == (study, match)}


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


def interval(values: Sequence[float], sign: str = "") -> str:
    """Mean ± half of its 95 % interval (Student's t)."""
    found = mean_ci(values)
    return f"{found.mean:{sign}.2f}" + (f" ± {found.half_width:.2f}" if len(values) > 1 else "")


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


if __name__ == "__main__":
    main()
