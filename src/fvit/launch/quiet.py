"""``quiet=true``: a command tells warnings, errors and what came of it, but not what it is doing."""

import os
from collections.abc import Callable
from typing import Any

Work = Callable[[dict[str, Any]], dict[str, float]]

QUIET = "quiet"
"""The key. It is the terminal's affair: in a run's folder it would make one experiment look like two."""

_quiet = False


def heeded(work: Work) -> Work:
    """`work`, told what is left of a configuration without that key.

    The levels of log messages follow it in conf/hydra/job_logging/fvit.yaml.
    """

    def begin(config: dict[str, Any]) -> dict[str, float]:
        config = dict(config)
        _hush(config.pop(QUIET))
        try:
            return work(config)
        finally:
            _hush(False)

    return begin


def is_quiet() -> bool:
    """Whether the command that runs was asked to be."""
    return _quiet


def _hush(quiet: bool) -> None:
    global _quiet  # here and not in `begin`, which a launcher may send to another process with a copy of its globals
    _quiet = quiet
    if quiet:
        os.environ.setdefault("WANDB_QUIET", "true")
