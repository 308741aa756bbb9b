"""The scores of an evaluation in the terminal: the weakest classes and the most frequent confusions."""

from collections.abc import Sequence
from typing import Any

from fvit.launch.console import print_rows
from fvit.launch.quiet import is_quiet

_LISTED = 5


def print_scores(scores: Any, names: Sequence[str]) -> None:
    """Print the classes that are recognised worst and the most frequent confusions; nothing if all is right.

    Args:
        scores: of `fvit.training.scores`.
        names: of the classes, by label.
    """
    if is_quiet() or not scores.confusions:
        return
    weakest = sorted((one for one in scores.classes if one.images), key=lambda one: one.accuracy)[:_LISTED]
    rows = [
        (names[one.label], f"{one.images:,}", *(f"{100 * share:.1f} %" for share in (one.accuracy, one.f1)))
        for one in weakest
    ]
    print_rows("Weakest classes", ("class", "images", "accuracy", "F1"), rows)
    rows = [
        (f"{names[one.label]} → {names[one.predicted]}", f"{one.images:,}", f"{100 * one.share:.1f} %")
        for one in scores.confusions[:_LISTED]
    ]
    print_rows("Most frequent confusions", ("class → predicted", "images", "of the class"), rows)
