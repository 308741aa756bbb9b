"""Progress of counted work: a bar, or without a terminal a line now and then."""

import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, nullcontext

from rich.progress import BarColumn, Progress, TextColumn, TimeRemainingColumn

from fvit.launch.console import console
from fvit.launch.quiet import is_quiet

_PERIOD = 10.0  # seconds between two lines


@contextmanager
def counting(unit: str, total: int, done: int) -> Iterator[Callable[[int], None]]:
    """Show how much of the work is done, its speed, and the ETA.

    Args:
        unit: what is counted, in the plural.
        total: number of all units.
        done: how many of them were done before.

    Yields:
        a function to call with the number of units done since its last call.
    """
    if is_quiet():
        yield lambda more: None
        return
    columns = [BarColumn(bar_width=None), TextColumn("{task.fields[speed]}  ETA"), TimeRemainingColumn()]
    bar = Progress(TextColumn(f"{{task.completed:,}} of {{task.total:,}} {unit}"), *columns, console=console)
    task = bar.add_task("", total=total, completed=done, speed="")
    start = printed = time.monotonic()
    count = done

    def advance(more: int) -> None:
        nonlocal count, printed
        count += more
        now = time.monotonic()
        speed = (count - done) / max(now - start, 1e-6)
        if console.is_interactive:
            bar.update(task, completed=count, speed=f"{_rate(speed)} {unit}/s")
        elif now - printed >= _PERIOD or count == total:
            printed = now
            eta = (total - count) / speed
            console.print(f"{count:,} of {total:,} {unit}  {_rate(speed)} {unit}/s  ETA {eta:,.0f} s")

    with bar if console.is_interactive else nullcontext():
        yield advance


@contextmanager
def waiting(text: str) -> Iterator[Callable[[str], None]]:
    """Show what is being done, if there is a terminal.

    Yields:
        a function to call with a new text.
    """
    if is_quiet() or not console.is_interactive:
        yield lambda text: None
        return
    with console.status(text) as status:
        yield status.update


def _rate(speed: float) -> str:
    return f"{speed:,.0f}" if speed >= 10 else f"{speed:.2g}"
