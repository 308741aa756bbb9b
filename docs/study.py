"""Write the tables and the picture of docs/study.md from docs/study/*.csv: `make study`."""

import csv
import math
import re
import statistics
from collections import defaultdict
from collections.abc import Callable, Sequence
from contextlib import nullcontext
from pathlib import Path

import matplotlib.pyplot as plt
from scipy.stats import spearmanr, t

DOCS = Path(__file__).resolve().parent
BASELINE = "softmax"
SEARCH_SEED = "1000"

Line = dict[str, str]


def main() -> None:
    """Replace what stands between the markers of each study and axis."""
    page = DOCS / "study.md"
    text = page.read_text(encoding="utf-8")
    for name in ("cifar10", "lookup", "pointer"):
        results = DOCS / "study" / f"{name}.csv"
        with results.open(encoding="utf-8", newline="") if results.is_file() else nullcontext([]) as file:
            lines = list(csv.DictReader(file))
        for match in ("macs", "shape"):
            chosen = by_contender(lines, match, lambda seed: seed != SEARCH_SEED)
            picture = DOCS / f"study_{name}_{match}.svg"
            draw(chosen, picture)
            shown = f"![Accuracy of each mechanism]({picture.name})\n\n" if chosen else ""
            text = replaced(text, f"{name} {match}", shown + render(chosen))
        searched = by_contender(lines, "macs", lambda seed: seed == SEARCH_SEED)
        text = replaced(text, f"{name} search", render_search(searched))
    page.write_text(text, encoding="utf-8")


def by_contender(lines: Sequence[Line], match: str, seeds: Callable[[str], bool]) -> dict[str, list[Line]]:
    """The runs with the same MACs, or the same shape, and some of the seeds."""
    found = defaultdict(list)
    for line in lines:
        if line["match"] == match and seeds(line["seed"]):
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


def render(contenders: dict[str, list[Line]]) -> str:
    """A table, the power, and how far the ranking halfway agrees with that at the end."""
    if not contenders:
        return "Not run yet.\n"
    head = ["attention", "seeds", "accuracy, %", "s.d.", "vs softmax, points"]
    head += ["width", "params, M", "MACs, M", "lr", "images/s"]
    rows = [f"| {' | '.join(head)} |", "|---" * len(head) + "|"]
    for name, lines in ranked(contenders):
        values = accuracies(lines)
        spread = f"{statistics.stdev(values):.2f}" if len(values) > 1 else ""
        first = lines[0]
        rows.append(
            f"| {name} | {len(values)} | {interval(values)} | {spread} | {difference(lines, contenders)} | "
            f"{first['width']} | {int(first['params']) / 1e6:.3f} | {int(first['macs']) / 1e6:.2f} | {first['lr']} | "
            f"{statistics.median(int(line['images_per_s']) for line in lines)} |"
        )
    return "\n".join([*rows, "", power(contenders), "", stability(contenders)]) + "\n"


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
    mean = f"{statistics.mean(values):{sign}.2f}"
    if len(values) < 2:
        return mean
    half = t.ppf(0.975, len(values) - 1) * statistics.stdev(values) / math.sqrt(len(values))
    return f"{mean} ± {half:.2f}"


def difference(lines: Sequence[Line], contenders: dict[str, list[Line]]) -> str:
    """Paired by seed: the same images in the same order, evaluated on the same test images."""
    theirs = {line["seed"]: line for line in contenders.get(BASELINE, [])}
    if lines is contenders.get(BASELINE):
        return ""
    pairs = [(line, theirs[line["seed"]]) for line in lines if line["seed"] in theirs]
    return interval([100 * (float(a["acc1"]) - float(b["acc1"])) for a, b in pairs], "+") if pairs else ""


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


def draw(contenders: dict[str, list[Line]], out: Path) -> None:
    """A dot for each run, a bar for each mean."""
    order = ranked(contenders)[::-1]
    if not order:
        return
    plt.rcParams["svg.hashsalt"] = "fvit"
    figure, axes = plt.subplots(figsize=(7, 0.6 + 0.27 * len(order)), layout="constrained")
    for row, (name, lines) in enumerate(order):
        values = accuracies(lines)
        control = name in ("identity", "pool", "separable convolution")
        colour = "#d1495b" if name.startswith("additive") else "#8a94a0" if control else "#00798c"
        axes.plot(values, [row] * len(values), "o", color=colour, alpha=0.45, markersize=5, markeredgewidth=0)
        axes.plot([statistics.mean(values)], [row], "|", color=colour, markersize=14, markeredgewidth=2)
    axes.set_yticks(range(len(order)), [name for name, _ in order])
    axes.set(xlabel="top-1 accuracy, %; a dot per seed, a bar at the mean")
    axes.grid(axis="x", alpha=0.25)
    axes.spines[["top", "right", "left"]].set_visible(False)
    axes.tick_params(axis="y", length=0)
    figure.savefig(out, metadata={"Date": None})
    plt.close(figure)


if __name__ == "__main__":
    main()
