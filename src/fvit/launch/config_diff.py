"""The differences between two configurations."""

from pathlib import Path
from typing import Any

from fvit.config.flatten import flatten
from fvit.config.legacy import migrate_config
from fvit.config.overrides import argument
from fvit.launch.quiet import QUIET

# Names, paths and initial weights do not change how a resumed run trains.
_IRRELEVANT = {"title", "output_dir", "ckpt_path", "model.init_from", "model.pretrained", "model.keep", "model.origin"}
_HOW = {"logger", "ddp"}  # what is recorded, and how gradients travel
_IMG_SIZE = "data.img_size"
_PATHS = {"dirpath", "save_dir", "id_file", "default_root_dir", "root"}


def changes(before: dict[str, Any], after: dict[str, Any]) -> dict[str, str]:
    """``key=value (was value)`` by dotted key, for the keys whose values differ.

    An absent key is the same as null, false or 0: configurations of earlier versions lack options that came later.
    """
    old, new = flatten(before), flatten(after)

    def differ(key: str) -> bool:
        if key in old and key in new:
            return old[key] != new[key]
        return bool(old.get(key) or new.get(key))

    keys = [key for key in {**new, **old} if differ(key) and key != QUIET]
    return {key: f"{key}={new.get(key)} (was {old.get(key)})" for key in keys}


def compare(recorded: dict[str, Any], given: dict[str, Any], run: Path, in_place: bool = True) -> list[str]:
    """The settings that differ when a run resumes, each as ``key=value (was value)``.

    Args:
        recorded: the configuration of the run that wrote the checkpoint.
        given: the new one.
        run: the directory of that run, for the error message.
        in_place: whether it resumes in that directory, which has images of one size; a new run may have another one.

    Raises:
        ValueError: the model or its optimizer would be another one.
    """
    recorded = migrate_config(recorded)
    # A callback that the run did not have before changes nothing.
    known = [name for name in given.get("callbacks", {}) if name in recorded.get("callbacks", {})]
    given = {**given, "callbacks": {name: given["callbacks"][name] for name in known}}
    # The recorded width is what `model.match` found. If it now finds another one, the checkpoint will not fit.
    matched = {"model.match", "model.embed_dim", "model.num_heads"} if given["model"].get("match") else set()
    relevant = {key: text for key, text in changes(recorded, given).items() if _is_relevant(key) and key not in matched}
    if refused := [text for key, text in relevant.items() if _is_fixed(key)]:
        raise ValueError(
            f"the run in {run} cannot resume with another model or optimizer: {', '.join(refused)}. "
            f"Leave that out, or start a new run from its weights: {argument('model.init_from', run)}"
        )
    if in_place and _IMG_SIZE in relevant:
        raise ValueError(
            f"the run in {run} cannot resume in its directory with images of another size: {relevant[_IMG_SIZE]}. "
            f"Leave that out, let a new run continue it ({argument('ckpt_path', run)} hydra.run.dir=DIR), or start a "
            f"new run from its weights: {argument('model.init_from', run)}"
        )
    return list(relevant.values())


def _is_relevant(key: str) -> bool:
    group, _, rest = key.partition(".")
    return key not in _IRRELEVANT and group not in _HOW and rest.rpartition(".")[2] not in _PATHS


def _is_fixed(key: str) -> bool:
    # The optimizer's state restores all of its settings but the learning rate, which the schedule sets.
    return key.startswith(("model.", "optimizer.")) and key != "optimizer.lr"
