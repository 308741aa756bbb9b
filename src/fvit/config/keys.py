"""Keys of a command's configuration, and those that a mistyped key may have meant."""

import difflib
import re
from pathlib import Path

import yaml

from fvit.config.flatten import flatten
from fvit.config.paths import conf_dir

# What other programs call a key of ours, where no common word leads from one to the other.
_ALIASES = {
    "learning_rate": "optimizer.lr",
    "bs": "global_batch_size",
    "gpus": "trainer.devices",
    "resume": "ckpt_path",
    "dropout": "model.drop_rate",
    "wd": "optimizer.weight_decay",
    "workers": "data.num_workers",
    "image_size": "data.img_size",
    "amp": "trainer.precision",
}


def known_keys(task: str) -> list[str]:
    """Groups and dotted keys of a command, whatever options of its groups are chosen; those of its own file first."""
    own = conf_dir() / f"{task}.yaml"
    groups = [
        name for name in re.findall(r"^  - (\w+):", own.read_text(), re.MULTILINE) if (conf_dir() / name).is_dir()
    ]
    files = [own, *(path for group in groups for path in sorted((conf_dir() / group).glob("*.yaml")))]
    keys = dict.fromkeys(key for file in files for key in _keys_of(file))
    return [*keys, *(group for group in groups if group not in keys)]


def _keys_of(file: Path) -> list[str]:
    text = file.read_text(encoding="utf-8")
    group = "_global_" if file.parent == conf_dir() else file.parent.name
    if package := re.match(r"# @package (\S+)", text):
        group = package[1]
    content = yaml.safe_load(text) or {}
    content = {key: value for key, value in content.items() if key not in ("defaults", "hydra")}
    return list(flatten(content if group == "_global_" else {group: content}))


def suggest(key: str, task: str) -> str:
    """', did you mean optimizer.lr?' or ''; whole keys, so that each can be copied.

    Those of the same last word come first, or else those that contain it (``batch_size``: ``global_batch_size``), or
    else those that are spelled like it.
    """
    keys = known_keys(task)
    group, _, word = key.rpartition(".")
    if key in keys and group:
        return f": the chosen option of {group.partition('.')[0]} has no {word}, but another one may;"
    last = {known: known.rpartition(".")[2] for known in keys}
    # Nearest groups first: `data.rot` means data.root rather than another group's.
    keys.sort(key=lambda known: known.rpartition(".")[0] != group)
    found = [known for known in keys if known == _ALIASES.get(word) or last[known] == word]
    found = found or [known for known in keys if f"_{word}_" in f"_{last[known]}_"]
    close = difflib.get_close_matches(word, set(last.values()), n=1, cutoff=0.6)
    found = found or [known for known in keys if last[known] in close]
    return f", did you mean {' or '.join(found[:3])}?" if found else ""
