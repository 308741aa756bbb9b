"""The part of --help that depends on what there is: the config groups and their options, folded to a screen."""

import textwrap

from hydra.core.global_hydra import GlobalHydra

_WIDTH = 100


def groups() -> str:
    """A paragraph a group; also of a folder that ``--config-dir`` adds."""
    hydra = GlobalHydra.instance().hydra
    names = sorted(name for name in hydra.list_all_config_groups() if name.split("/")[0] != "hydra")
    column = max(map(len, names)) + 4
    return "\n".join(
        textwrap.fill(
            ", ".join(sorted(hydra.config_loader.get_group_options(name))),
            _WIDTH,
            initial_indent=f"  {name}".ljust(column),
            subsequent_indent=" " * column,
            break_on_hyphens=False,
        )
        for name in names
    )
