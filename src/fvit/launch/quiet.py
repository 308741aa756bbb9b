"""``quiet=true``: a command prints warnings, errors and results, but no progress."""

import os
from collections.abc import Callable
from typing import Any

Work = Callable[[dict[str, Any]], dict[str, float]]

QUIET = "quiet"
"""The key, which is no property of the run: its config.yaml does not hold it."""

_quiet = False


def wrap(work: Work) -> Work:
    """`work`, called without that key in its configuration; log levels follow conf/hydra/job_logging/fvit.yaml."""

    def begin(config: dict[str, Any]) -> dict[str, float]:
        config = dict(config)
        _set(config.pop(QUIET))
        try:
            return work(config)
        finally:
            _set(False)

    return begin


def is_quiet() -> bool:
    """Whether the running command was given quiet=true."""
    return _quiet


def _set(quiet: bool) -> None:
    global _quiet  # not in `begin`, which a launcher may pickle together with copies of its globals
    _quiet = quiet
    if quiet:
        os.environ.setdefault("WANDB_QUIET", "true")
