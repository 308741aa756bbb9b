"""The resolvers of conf/: what ``${fvit.NAME:}`` stands for."""

import secrets
import textwrap
from typing import Any

from hydra.core.global_hydra import GlobalHydra
from hydra.core.hydra_config import HydraConfig
from omegaconf import DictConfig, OmegaConf

from fvit.config import naming
from fvit.launch import staging

_WIDTH = 100


def register() -> None:
    """Make the values of configurations that fvit computes, ``${fvit.hex:}`` and the like, known to OmegaConf."""
    OmegaConf.register_new_resolver("fvit.hex", lambda: secrets.token_hex(2), use_cache=True, replace=True)
    OmegaConf.register_new_resolver("fvit.level", lambda quiet: "WARNING" if quiet else "INFO", replace=True)
    OmegaConf.register_new_resolver("fvit.start", staging.name, replace=True)
    OmegaConf.register_new_resolver("fvit.groups", _groups, replace=True)
    OmegaConf.register_new_resolver(
        "fvit.mechanism", lambda *, _root_: mechanism(OmegaConf.select(_root_, "model.attention")), replace=True
    )
    OmegaConf.register_new_resolver("fvit.of", lambda it: "" if it is None else f" of {it}", replace=True)
    OmegaConf.register_new_resolver("fvit.settings", _settings, replace=True)
    OmegaConf.register_new_resolver("fvit.job_type", _job_type, replace=True)
    OmegaConf.register_new_resolver("fvit.unset", _unset, replace=True)
    # Where nothing is trained there are no initial weights; `fvit.data_defaults` replaces this and the mechanism for
    # fvit-train.
    OmegaConf.register_new_resolver("fvit.weights", lambda key, default: node(default), replace=True)


def node(value: Any) -> Any:
    """What a resolver may return in place of `value`: a list must be one of OmegaConf's."""
    return OmegaConf.create(value) if isinstance(value, list) else value


def mechanism(attention: Any) -> str:
    """The attention of a run in its title."""
    return naming.mechanism(HydraConfig.get().runtime.choices.get("attention"), attention)


def _settings(*, _root_: DictConfig) -> str:
    """What the command line set, to follow the title; empty without a command line."""
    overrides = HydraConfig.get().overrides.task if HydraConfig.initialized() else []
    return "".join(f", {setting}" for setting in naming.settings(overrides, OmegaConf.select(_root_, "title") or ""))


def _job_type() -> str:
    """Debug runs are no training runs."""
    return "debug" if HydraConfig.initialized() and HydraConfig.get().runtime.choices.get("debug") else "train"


def _unset(key: str, *, _root_: DictConfig) -> bool:
    return OmegaConf.select(_root_, key) is None


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
