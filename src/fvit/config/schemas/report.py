"""What the configuration of `fvit-report` may hold, and its command line."""

from collections.abc import Sequence
from typing import Annotated

from pydantic import Field

from fvit.config.errors import ConfigError
from fvit.config.overrides import quoted
from fvit.config.schemas.fields import Strict

_WITH_A_WORD = {"--cfg", "-c", "--info", "-i", "--package", "-p", "--config-dir", "-cd", "--config-name", "-cn"}


class Report(Strict):
    """The keys of conf/report.yaml."""

    runs: Annotated[list[str], Field(min_length=1)]
    bench: str | None
    baseline: str
    out: str
    quiet: bool


def gather_folders(arguments: Sequence[str]) -> list[str]:
    """The command line with its folders, arguments that set nothing, as the list ``runs=[…]``.

    Raises:
        ConfigError: a multirun is asked for.
    """
    if {"-m", "--multirun"} & set(arguments):
        raise ConfigError("fvit-report reads multiruns, and is none: leave -m out and name their folder")
    kept, folders = [], []
    for before, argument in zip(["", *arguments], arguments, strict=False):
        # A word behind one of Hydra's flags is that flag's: --cfg job.
        is_folder = not argument.startswith(("-", "~")) and "=" not in argument and before not in _WITH_A_WORD
        (folders if is_folder else kept).append(argument)
    return [*kept, f"runs=[{','.join(map(quoted, folders))}]"] if folders else kept
