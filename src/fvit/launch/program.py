"""A command's own process: output that never ends a run, and an exit without delay."""

import atexit
import errno
import io
import os
import sys
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TextIO

from fvit.config.errors import DISK_FULL


@contextmanager
def own(task: str) -> Iterator[None]:
    """Run a command; if this process was started for it, and not by a test or a notebook, make it robust and end it.

    A message that nobody reads any more (``| head``, a closed terminal), that finds the disk full or that the encoding
    lacks must not end a run.
    The interpreter would take two to eight seconds to free torch's modules, in which a cluster kills: 143 becomes 137.
    Functions registered with `atexit` are called, which close W&B and end loader workers.
    """
    if not _is_program(task):
        yield
        return
    sys.stdout, sys.stderr = _lenient(sys.stdout, "replace"), _lenient(sys.stderr, "backslashreplace")
    code: object = 0
    try:
        yield
    except SystemExit as stop:
        code = stop.code
    except KeyboardInterrupt:
        print("interrupted", file=sys.stderr)
        code = 130
    except BaseException as error:
        sys.excepthook(type(error), error, error.__traceback__)
        code = 1
    if code is not None and not isinstance(code, int):
        print(code, file=sys.stderr)
        code = 1
    # What the interpreter does before it frees modules: pools of processes end with the threads, the rest by `atexit`.
    threading._shutdown()
    atexit._run_exitfuncs()
    for stream in filter(None, (sys.stdout, sys.stderr)):
        stream.flush()
    os._exit(code or 0)


def _is_program(task: str) -> bool:
    """Whether the interpreter runs ``fvit-TASK`` or ``python -m fvit.TASK``."""
    program = sys.modules["__main__"]
    spec = getattr(program, "__spec__", None)
    name = spec.name if spec else Path(getattr(program, "__file__", "")).stem
    return name in (f"fvit.{task}", f"fvit-{task}") and not sys.flags.interactive


class _Unread(io.FileIO):
    """A file descriptor that takes what nobody reads, or what finds no room; the latter is said on stderr."""

    def write(self, data: bytes) -> int:
        try:
            return super().write(data)
        except OSError as error:
            if error.errno not in (errno.EPIPE, errno.EIO, *DISK_FULL):
                raise
            os.dup2(os.open(os.devnull, os.O_WRONLY), self.fileno())
            if error.errno in DISK_FULL and self.fileno() == 1:
                print(f"{DISK_FULL[error.errno]}: what this command prints is lost from here on", file=sys.stderr)
            return len(data)


def _lenient(stream: TextIO | None, errors: str) -> TextIO | None:
    """A stream to the same descriptor, flushed after each line, with `errors` for characters that it cannot encode."""
    if stream is None:  # closed by the shell
        return None
    stream.flush()
    raw = _Unread(stream.fileno(), "w", closefd=False)
    return io.TextIOWrapper(io.BufferedWriter(raw), stream.encoding, errors, line_buffering=True)
