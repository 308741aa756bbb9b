"""What a person gets of a cascade: a table, and in the run's folder every point, the named ones and the plot."""

import csv
import io
import json
from pathlib import Path

from fvit.cascade.cascade import Cascade, Point
from fvit.cascade.plot import draw, show_threshold, unit
from fvit.launch.console import console, print_facts, print_rows
from fvit.launch.run_dir import write

# Steps in which the table goes from no image that goes on to all of them.
_STEPS = 10


def metrics(cascade: Cascade) -> dict[str, float]:
    """The named points as metrics; ``cascade/acc1``, ``cascade/macs``, … are of the one that stands in for the large.

    That is the cheapest one which is as accurate as the large model.
    """
    prefixes = {name: "cascade" if name == "as_accurate" else f"cascade/{name}" for name in _named(cascade)}
    return {
        f"{prefixes[name]}/{key}": value for name, point in _figures(cascade).items() for key, value in point.items()
    }


def save(cascade: Cascade, large: Path, tiny: Path, folder: Path) -> None:
    """Write cascade.csv (every point), cascade.json (the named ones) and cascade.html (the plot)."""
    text = io.StringIO()
    rows = csv.writer(text, lineterminator="\n")
    rows.writerow(("threshold", "passed_on", "share", "right", "acc1", "macs"))
    rows.writerows((p.threshold, p.passed_on, p.share, p.right, p.acc1, p.macs) for p in cascade.curve)
    write(folder / "cascade.csv", text.getvalue())
    checkpoints = {"large": str(large), "tiny": str(tiny)}
    content = {"checkpoints": checkpoints, "images": cascade.images, **_figures(cascade)}
    write(folder / "cascade.json", json.dumps(content, indent=2))
    write(folder / "cascade.html", draw(cascade, (str(large), str(tiny))))


def print_cascade(cascade: Cascade, folder: Path) -> None:
    """The curve where each further tenth of the images goes on, the named points, and what they say."""
    head = ("threshold", "by the large", "acc1", "MACs an image", "saved")
    print_rows(
        "Cascade, its threshold from low to high", head, [_columns(cascade, point) for point in _tenths(cascade)]
    )
    titles = {
        "tiny": "tiny alone",
        "large": "large alone",
        "best": "most accurate",
        "as_accurate": "cheapest as accurate as the large",
        "held_out": "… its threshold on other images",
    }
    points = _named(cascade)
    print_rows("", ("", *head), [(title, *_columns(cascade, points[name])) for name, title in titles.items()])
    console.print(_in_words(cascade))
    print_facts("", [("every point", str(folder / "cascade.csv")), ("plot", str(folder / "cascade.html"))])


def _named(cascade: Cascade) -> dict[str, Point]:
    return {
        "large": cascade.large,
        "tiny": cascade.tiny,
        "best": cascade.best(),
        "as_accurate": cascade.as_accurate(),
        "held_out": cascade.held_out(),
    }


def _figures(cascade: Cascade) -> dict[str, dict[str, float]]:
    """The numbers of the named points; of the models alone, those that are not the same for every pair."""
    found = {}
    for name, point in _named(cascade).items():
        found[name] = {"acc1": point.acc1, "macs": point.macs}
        if name not in ("large", "tiny"):
            found[name] |= {"share": point.share, "saved": cascade.saved(point)}
            found[name] |= {} if point.threshold is None else {"threshold": point.threshold}
    return found


def _tenths(cascade: Cascade) -> list[Point]:
    """The points nearest to none, a tenth, two tenths, …, all of the images going on; each once."""
    wanted = [step * cascade.images / _STEPS for step in range(_STEPS + 1)]
    return list(dict.fromkeys(min(cascade.curve, key=lambda p, n=n: abs(p.passed_on - n)) for n in wanted))


def _columns(cascade: Cascade, point: Point) -> tuple[str, ...]:
    scale, letter = unit(cascade)
    return (
        show_threshold(point.threshold),
        f"{100 * point.share:.1f} %",
        f"{100 * point.acc1:.2f} %",
        f"{point.macs / scale:,.3f} {letter}",
        f"{100 * cascade.saved(point):.1f} %",
    )


def _in_words(cascade: Cascade) -> str:
    saver, other = cascade.as_accurate(), cascade.held_out()
    return (
        f"As accurate as the large model, the cascade takes {_needed(cascade, saver)} of its MACs. That threshold was "
        "chosen on the images it is measured on, which is optimistic: chosen on one half of them and measured on the "
        f"other, it takes {_needed(cascade, other)}, at {100 * other.acc1:.2f} % against the large model's "
        f"{100 * cascade.large.acc1:.2f} %."
    )


def _needed(cascade: Cascade, point: Point) -> str:
    return f"{100 * point.macs / cascade.large_macs:.1f} %"
