"""Work on many items, in processes that end when the one that started them does."""

import multiprocessing
import multiprocessing.connection
import os
import signal
import sys
import traceback
from collections.abc import Callable, Sequence
from multiprocessing.connection import Connection
from typing import Any

from fvit.data.images import DataError

Advance = Callable[[int], None]
"""Told how much has been done since it was told last."""

Work = Callable[[Any, Advance], Any]
"""Does one item; where processes are spawned and not forked it must be picklable."""


def run(work: Work, items: Sequence[Any], workers: int, advance: Advance) -> list[Any]:
    """The results of ``work(item, advance)``, in the order of the items.

    Args:
        work: is told `advance` as often as it likes; what a worker says of it arrives at the caller's.
        items: worker w takes every `workers`-th of them, from the w-th on.
        workers: processes; 0 works in this one.
        advance: called in this process.

    Raises:
        DataError: that of the first worker to fail, or a worker was killed; the others are ended.
        RuntimeError: a worker failed for another reason; the text is its traceback.
    """
    if not workers:
        return [work(item, advance) for item in items]
    context = multiprocessing.get_context()
    results: dict[int, Any] = {}
    running: dict[Connection, Any] = {}
    try:
        for number in range(min(workers, len(items))):
            here, there = context.Pipe(duplex=False)
            share = list(enumerate(items))[number::workers]
            process = context.Process(target=_serve, args=(work, share, os.getpid(), there), daemon=True)
            process.start()
            running[here] = process
            # Held open here, or by the workers forked later, it would hide that the worker has died.
            there.close()
        while running:
            for pipe in multiprocessing.connection.wait(list(running)):
                _receive(pipe, running, results, advance)
    finally:
        for pipe, process in running.items():
            process.terminate()
            process.join()
            pipe.close()
    return [results[index] for index in range(len(items))]


def _receive(pipe: Connection, running: dict[Connection, Any], results: dict[int, Any], advance: Advance) -> None:
    try:
        kind, value = pipe.recv()
    except EOFError:
        process = running.pop(pipe)
        pipe.close()
        process.join()
        if process.exitcode:
            cause = f"killed by signal {-process.exitcode}" if process.exitcode < 0 else "ended early"
            raise DataError(
                f"a worker was {cause}; if that was for want of memory, take fewer workers. "
                "The same command goes on where this one stopped"
            ) from None
        return
    if kind == "advance":
        advance(value)
    elif kind == "result":
        index, result = value
        results[index] = result
    elif kind == "bad data":
        raise DataError(value)
    else:
        raise RuntimeError(f"a worker failed:\n{value}")


def _serve(work: Work, share: list[tuple[int, Any]], parent: int, pipe: Connection) -> None:
    """Be a worker."""
    # Ctrl-C reaches every process of a terminal; the parent ends workers by SIGTERM. Its own handler is not theirs.
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    signal.signal(signal.SIGTERM, signal.SIG_DFL)

    def advance(count: int) -> None:
        if os.getppid() != parent:  # it was killed, and its successor may do our work already
            os._exit(1)
        pipe.send(("advance", count))

    try:
        for index, item in share:
            pipe.send(("result", (index, work(item, advance))))
    except DataError as error:
        pipe.send(("bad data", str(error)))
    except BrokenPipeError:
        sys.exit(1)
    except Exception:
        pipe.send(("failure", traceback.format_exc()))
