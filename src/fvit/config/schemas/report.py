"""Schema of `fvit-report`, and its command line."""

from collections.abc import Sequence
from typing import Annotated

from pydantic import Field

from fvit.config.errors import ConfigError
from fvit.config.overrides import quoted
from fvit.config.schemas.fields import Strict

_FLAGS_WITH_A_VALUE = {"--cfg", "-c", "--info", "-i", "--package", "-p", "--config-dir", "-cd", "--config-name", "-cn"}


class Report(Strict):
    runs: Annotated[list[str], Field(min_length=1)]
    bench: str | None
    baseline: str
    out: str
    quiet: bool


def collect_folders(arguments: Sequence[str]) -> list[str]:
    """Hydra's arguments, with the folders on the command line as the list ``runs=[…]``.

    Raises:
        ConfigError: a multirun is requested.
    """
    if {"-m", "--multirun"} & set(arguments):
        raise ConfigError("fvit-report reads multiruns but is not one: leave -m out and give their folder")
    kept, folders = [], []
    for before, argument in zip(["", *arguments], arguments, strict=False):
        is_folder = not argument.startswith(("-", "~")) and "=" not in argument and before not in _FLAGS_WITH_A_VALUE
        (folders if is_folder else kept).append(argument)
    return [*kept, f"runs=[{','.join(map(quoted, folders))}]"] if folders else kept
