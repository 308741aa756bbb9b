"""The console scripts: each imports its command, which takes 0.3 s, in which Ctrl-C ends it without a traceback."""

import importlib
import os
import signal
from functools import partial
from typing import NoReturn


def _run(task: str) -> None:
    """Import ``fvit.TASK`` and call its `main`, which ends on Ctrl-C by itself."""
    before = signal.getsignal(signal.SIGINT)
    if before is signal.default_int_handler:  # and not ignored, as in a shell's background
        signal.signal(signal.SIGINT, _end)
    module = importlib.import_module(f"fvit.{task}")
    signal.signal(signal.SIGINT, before)
    module.main()


def _end(*_: object) -> NoReturn:
    # Not a KeyboardInterrupt, which an import in progress may turn into another error.
    os.write(2, b"interrupted\n")
    os._exit(130)


train, evaluate, cascade, predict = (partial(_run, task) for task in ("train", "eval", "cascade", "predict"))
export, prepare, bench, report, dashboard = (
    partial(_run, task) for task in ("export", "prepare", "bench", "report", "dashboard")
)
