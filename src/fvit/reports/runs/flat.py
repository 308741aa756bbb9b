"""Configurations as dotted keys with values as text, and those of many runs in little space."""

import json
from collections.abc import Sequence
from typing import Any

from fvit.reports.runs.gather import Run

MISSING = -1


def flatten(config: dict[str, Any], of: dict[str, Any], prefix: str = "") -> dict[str, str]:
    """Dotted keys and values as text; where a value holds the folder of the run `of`, that is ``${output_dir}``."""
    folder = of.get("output_dir")
    flat = {}
    for key, value in config.items():
        if isinstance(value, dict) and value:
            flat |= flatten(value, of, f"{prefix}{key}.")
        elif isinstance(value, str) and folder and prefix + key != "output_dir":
            flat[prefix + key] = value.replace(folder, "${output_dir}")
        else:
            flat[prefix + key] = show(value)
    return flat


def show(value: Any) -> str:
    """As one would write it on the command line."""
    if isinstance(value, str):
        return value
    if isinstance(value, float):
        return f"{value:g}" if float(f"{value:g}") == value else repr(value)
    return json.dumps(value, default=str)


def compact(runs: Sequence[Run]) -> dict[str, Any]:
    """The configurations and environments of all runs by key: the values that occur, and which one each run has.

    A key of which all runs have the same value has no list of indices; a run without the key has `MISSING`.
    """
    flats = [flatten(run.config, run.config) | _environment(run) for run in runs]
    table = {}
    for key in dict.fromkeys(key for flat in flats for key in flat):
        values = list(dict.fromkeys(flat[key] for flat in flats if key in flat))
        place = {value: index for index, value in enumerate(values)}
        indices = [place[flat[key]] if key in flat else MISSING for flat in flats]
        table[key] = [values] if set(indices) == {0} else [values, indices]
    return table


def _environment(run: Run) -> dict[str, str]:
    """Versions, commit and machine; the command and the time are told elsewhere."""
    told = {key: value for key, value in run.environment.items() if key not in ("time", "command")}
    return flatten({"environment": told}, {})
