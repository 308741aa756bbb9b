"""What to call a run: its mechanism, and what its command line set."""

import re
from collections.abc import Iterable, Mapping
from typing import Any

# Overrides that say where a run comes from or goes to, not what it is; and placeholders for a name given besides.
_NEUTRAL = ("title", "seed", "output_dir", "ckpt_path", "quiet", "hydra", "logger", "sweep", "tiny", "large")
_PLACEHOLDERS = ("model=timm", "attention=own")
_NAMED_IN_TITLE = ("model", "attention", "model.name", "model.attention.name")


def mechanism(choice: str | None, attention: Mapping[str, Any] | str | None) -> str:
    """The option of the config group `attention`; one's own mechanism as ``package.module:Class``; ``–`` if unknown.

    With ``native``, the model's own attention, a model from a folder or a hub has that which it was saved with.

    Args:
        choice: the option.
        attention: the configuration ``model.attention``.
    """
    name = attention.get("name") if isinstance(attention, Mapping) else attention
    return str(name if name and (":" in str(name) or choice == "native") else choice or name or "–")


def settings(overrides: Iterable[str], title: str) -> list[str]:
    """The overrides that tell a run from others with this title, as ``key=value``, in their order."""
    in_title = title.split(", ")
    found = []
    for override in overrides:
        key, _, value = override.lstrip("+~").partition("=")
        is_neutral = re.split(r"[./@]", key)[0] in _NEUTRAL or override in _PLACEHOLDERS
        if not is_neutral and not (key in _NAMED_IN_TITLE and value in in_title):
            found.append(override.lstrip("+"))
    return found


def variant(overrides: Iterable[str], title: str) -> str:
    """The name of a run without its seed: ``vit_atto, additive, optimizer.lr=1e-3``."""
    return ", ".join([title, *settings(overrides, title)])


def short_names(keys: Iterable[str]) -> dict[str, str]:
    """For each dotted key its shortest ending that no other key has."""
    keys = list(keys)
    short = {}
    for key in keys:
        parts = key.split(".")
        endings = [".".join(parts[i:]) for i in range(len(parts) - 1, -1, -1)]
        others = [f".{other}" for other in keys if other != key]
        short[key] = next(end for end in endings if end == key or not any(o.endswith(f".{end}") for o in others))
    return short


def choices(recorded: Mapping[str, Any], attention: Mapping[str, Any] | str | None) -> dict[str, Any]:
    """The option of each config group that Hydra recorded, its own groups left out; of `attention` the `mechanism`."""
    groups = {group: option for group, option in recorded.items() if not group.startswith("hydra/")}
    return {**groups, "attention": mechanism(groups["attention"], attention)} if "attention" in groups else groups
