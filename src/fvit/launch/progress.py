"""Progress of work that is counted: a bar, or a line now and then where there is no terminal."""

import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager

from rich.progress import BarColumn, Progress, TextColumn, TimeRemainingColumn

from fvit.launch.console import console
from fvit.launch.quiet import is_quiet

# Seconds between two lines.
_PAUSE = 10.0


@contextmanager
def counting(unit: str, total: int, done: int) -> Iterator[Callable[[int], None]]:
    """Show how many of `total` there are, how many a second, and the time left.

    Args:
        unit: what is counted, in the plural.
        total: how many there are in all.
        done: of these, how many have been done before.

    Yields:
        To be called with how many have been done since it was called last.
    """
    start = time.monotonic()
    if is_quiet():
        yield lambda more: None
        return
    if not console.is_interactive:
        yield _lines(unit, total, done, start)
        return
    bar = Progress(
        TextColumn(f"{{task.completed:,}} of {{task.total:,}} {unit}"),
        BarColumn(bar_width=None),
        TextColumn("{task.fields[speed]}"),
        TimeRemainingColumn(),
        TextColumn("left"),
        console=console,
    )
    with bar:
        task = bar.add_task("", total=total, completed=done, speed="")
        count = done

        def advance(more: int) -> None:
            nonlocal count
            count += more
            speed = (count - done) / max(time.monotonic() - start, 1e-6)
            bar.update(task, completed=count, speed=f"{_rate(speed)} {unit}/s")

        yield advance


@contextmanager
def waiting(text: str) -> Iterator[Callable[[str], None]]:
    """Show what is being done, where there is a terminal to show it on.

    Yields:
        To be called with a text that takes the place of the last one.
    """
    if is_quiet() or not console.is_interactive:
        yield lambda text: None
        return
    with console.status(text) as status:
        yield status.update


def _lines(unit: str, total: int, done: int, start: float) -> Callable[[int], None]:
    count, last = done, start

    def advance(more: int) -> None:
        nonlocal count, last
        count += more
        now = time.monotonic()
        if now - last >= _PAUSE or count == total:
            last = now
            speed = (count - done) / max(now - start, 1e-6)
            left = (total - count) / speed
            console.print(f"{count:,} of {total:,} {unit}  {_rate(speed)} {unit}/s  {left:,.0f} s left")

    return advance


def _rate(speed: float) -> str:
    return f"{speed:,.0f}" if speed >= 10 else f"{speed:.2g}"
