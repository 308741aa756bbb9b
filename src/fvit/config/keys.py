"""Keys of a command's configuration, and those that a mistyped key may have meant."""

import difflib
import re
from collections.abc import Callable
from functools import cache
from pathlib import Path

import yaml

from fvit.config.flatten import flatten
from fvit.config.paths import conf_dir

# What other programs call a key of ours, where no common word leads from one to the other, or leads to the wrong one.
_ALIASES = {
    "accumulate_grad_batches": "micro_batch_size",
    "amp": "trainer.precision",
    "arch": "model",
    "backbone": "model",
    "bs": "global_batch_size",
    "checkpoint": "ckpt_path",
    "clip_grad": "trainer.gradient_clip_val",
    "data_dir": "data.root",
    "data_path": "data.root",
    "dataset": "data",
    "dropout": "model.drop_rate",
    "epoch": "trainer.max_epochs",
    "fp16": "trainer.precision",
    "gpus": "trainer.devices",
    "image_size": "data.img_size",
    "learning_rate": "optimizer.lr",
    "n_layers": "model.depth",
    "num_layers": "model.depth",
    "resume": "ckpt_path",
    "wandb": "logger=wandb",
    "wd": "optimizer.weight_decay",
    "workers": "data.num_workers",
}


def known_keys(task: str) -> list[str]:
    """Groups and dotted keys of a command, whatever options of its groups are chosen; those of its own file first."""
    own = conf_dir() / f"{task}.yaml"
    groups = [
        name for name in re.findall(r"^  - (\w+):", own.read_text(), re.MULTILINE) if (conf_dir() / name).is_dir()
    ]
    files = [own, *(path for group in groups for path in _options(group))]
    keys = dict.fromkeys(key for file in files for key in _keys_of(file))
    return [*keys, *(group for group in groups if group not in keys)]


def _options(group: str) -> list[Path]:
    return sorted((conf_dir() / group).glob("*.yaml"))


@cache
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
    else those that are spelled like it or that it contains (``random_seed``: ``seed``).
    """
    keys = known_keys(task)
    group, _, word = key.rpartition(".")
    if (alias := _ALIASES.get(word, "")).partition("=")[0] in keys:
        return f", did you mean {alias}?"
    if key in keys and group:
        owner = group.partition(".")[0]
        having = [file.stem.lstrip("_") for file in _options(owner) if key in _keys_of(file)]
        if owner == "callbacks":
            having = [f"[default,{name}]" for name in having]
        return f": the chosen option of {owner} has no {word}, unlike {owner}={' or '.join(having)};"
    # Nearest groups first: `data.rot` means data.root rather than another group's.
    keys.sort(key=lambda known: known.rpartition(".")[0] != group)
    last = {known: known.rpartition(".")[2] for known in keys}
    plain = {known: text.replace("_", "") for known, text in last.items()}
    spelled = difflib.get_close_matches(word, set(last.values()), n=1, cutoff=0.6)
    alike = difflib.get_close_matches(word, spelled, cutoff=0.8)
    rules: tuple[Callable[[str], bool], ...] = (
        lambda known: last[known] == word,
        lambda known: f"_{word}_" in f"_{last[known]}_",
        lambda known: len(word) > 3 and word.replace("_", "") in plain[known],
        lambda known: last[known] in alike,
        lambda known: f"_{last[known]}_" in f"_{word}_",
        lambda known: last[known] in spelled,
    )
    found = next(filter(None, ([known for known in keys if rule(known)] for rule in rules)), [])
    return f", did you mean {' or '.join(found[:3])}?" if found else ""
