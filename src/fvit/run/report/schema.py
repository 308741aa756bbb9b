"""What the configuration of `fvit-report` may hold, and its command line."""

from collections.abc import Sequence
from typing import Annotated

from pydantic import Field

from fvit.run.bench.grid import quoted
from fvit.run.errors import ConfigError
from fvit.run.fields import Strict


class Report(Strict):
    """The keys of conf/report.yaml."""

    runs: Annotated[list[str], Field(min_length=1)]
    bench: str | None
    baseline: str
    out: str


def gather_folders(arguments: Sequence[str]) -> list[str]:
    """The command line with its folders, arguments that set nothing, as the list ``runs=[…]``.

    Raises:
        ConfigError: a multirun is asked for.
    """
    if {"-m", "--multirun"} & set(arguments):
        raise ConfigError("fvit-report reads multiruns, and is none: leave -m out and name their folder")
    kept, folders = [], []
    previous = ""
    for argument in arguments:
        # Hydra's flags take a value behind them: --cfg job.
        is_value = previous in ("--cfg", "-c", "--package", "-p", "--info", "-i", "--config-path", "-cp", "--config-name", "-cn", "--config-dir", "-cd")
        is_folder = not argument.startswith(("-", "~")) and "=" not in argument and not is_value
        (folders if is_folder else kept).append(argument)
        previous = argument
    return [*kept, f"runs=[{','.join(map(quoted, folders))}]"] if folders else kept
