"""What differs between the configuration of a run and that with which it is to go on."""

from pathlib import Path
from typing import Any

from fvit.config.flatten import flatten
from fvit.config.legacy import migrate_config
from fvit.launch.quiet import QUIET

# Where things lie and what they are called.
_NO_MATTER = {"title", "output_dir", QUIET, "ckpt_path", "model.init_from", "model.pretrained"}
_PLACES = {"dirpath", "save_dir", "id_file", "default_root_dir", "root"}


def compare(recorded: dict[str, Any], given: dict[str, Any], run: Path) -> list[str]:
    """The settings that differ, each as ``key=value (was value)``.

    Args:
        recorded: the configuration of the run that wrote the checkpoint.
        given: the new one.
        run: the folder of that run, for the error's text.

    Raises:
        ValueError: the model or its optimizer would be another one.
    """
    recorded = migrate_config(recorded)
    known = [name for name in given.get("callbacks", {}) if name in recorded.get("callbacks", {})]
    given = {**given, "callbacks": {name: given["callbacks"][name] for name in known}}  # further ones change nothing
    before, after = flatten(recorded), flatten(given)
    # `model.match` is noted as what it found. Whether that is the same now, the weights' shapes tell.
    found = {"model.match", "model.embed_dim", "model.num_heads"} if after.get("model.match") else set()
    differing = [
        key
        for key in dict.fromkeys([*after, *before])
        if before.get(key) != after.get(key) and _matters(key) and key not in found
    ]
    told = {key: f"{key}={after.get(key)} (was {before.get(key)})" for key in differing}
    if refused := [told[key] for key in differing if _is_fixed(key)]:
        raise ValueError(
            f"the run in {run} cannot go on with another model or optimizer: {', '.join(refused)}. "
            f"Leave that out, or begin a new run with its weights: model.init_from={run}"
        )
    return list(told.values())


def _is_fixed(key: str) -> bool:
    # The optimizer's state brings all of its settings along but the learning rate, which the schedule sets.
    return (key.startswith(("model.", "optimizer.")) and key != "optimizer.lr") or key == "data.img_size"


def _matters(key: str) -> bool:
    group, _, rest = key.partition(".")
    return key not in _NO_MATTER and group != "logger" and rest.rpartition(".")[2] not in _PLACES
