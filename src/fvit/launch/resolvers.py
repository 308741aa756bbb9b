"""The resolvers of conf/: what ``${fvit.NAME:}`` stands for."""

import secrets
import textwrap

from hydra.core.global_hydra import GlobalHydra
from omegaconf import OmegaConf

from fvit.launch import staging

_WIDTH = 100


def register() -> None:
    """Make ``${fvit.hex:}``, ``${fvit.level:QUIET}``, ``${fvit.start:}`` and ``${fvit.groups:}`` known to OmegaConf."""
    OmegaConf.register_new_resolver("fvit.hex", lambda: secrets.token_hex(2), use_cache=True, replace=True)
    OmegaConf.register_new_resolver("fvit.level", lambda quiet: "WARNING" if quiet else "INFO", replace=True)
    OmegaConf.register_new_resolver("fvit.start", staging.name, replace=True)
    OmegaConf.register_new_resolver("fvit.groups", _groups, replace=True)


def _groups() -> str:
    """The config groups and their options for --help, those of ``--config-dir`` included."""
    hydra = GlobalHydra.instance().hydra
    names = sorted(name for name in hydra.list_all_config_groups() if name.split("/")[0] != "hydra")
    options = {name: sorted(hydra.config_loader.get_group_options(name)) for name in names}
    column = max(map(len, names)) + 4
    return "\n".join(
        textwrap.fill(
            ", ".join(option for option in options[name] if not option.startswith("_")),  # _base is no option
            _WIDTH,
            initial_indent=f"  {name}".ljust(column),
            subsequent_indent=" " * column,
            break_on_hyphens=False,
        )
        for name in names
    )
