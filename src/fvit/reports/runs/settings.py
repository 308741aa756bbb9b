"""What tells the configuration of one run from that of another."""

import re
from collections import Counter, defaultdict
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any

from fvit.config.naming import mechanism
from fvit.reports.runs.collect import Run, as_text

Settings = dict[str, Any]
"""Values by dotted key, or the chosen option by config group."""

# Names, places, loggers and how images are fetched: they do not affect the outcome.
_NEUTRAL = ("title", "output_dir", "seed", "logger", "ckpt_path", "quiet", "callbacks", "data.name", "data.root")
_NEUTRAL += ("data.cache_dir", "data.cache_gib", "data.download", "data.num_workers", "data.pin_memory")
_NEUTRAL += ("data.prefetch_factor", "data.eval_batch_size", "data.skip_limit", "ddp", "trainer.benchmark")
_NEUTRAL += ("trainer.log_every_n_steps", "trainer.profiler", "trainer.default_root_dir")
# Groups and keys of a command line that have a place of their own, or are told by the keys that they set.
_NOT_SETTINGS = {*_NEUTRAL, "attention", "model", "model.name", "model.attention.name", "data"}
_NOT_SETTINGS_WITHIN = {*_NEUTRAL, "hydra", "hardware", "debug", "sweep"}
# Of fvit's callbacks these change what is learnt; of Lightning's those below only watch, and any other may change it.
_ACTING = {"AdaptiveGradientClipping", "EMA", "Unfreeze"}
_WATCHING = {"DeviceStatsMonitor", "LearningRateMonitor", "ModelCheckpoint", "ModelSummary", "OnExceptionCheckpoint"}
_WATCHING |= {"RichModelSummary", "RichProgressBar", "ThroughputMonitor", "Timer", "TQDMProgressBar"}
# Changed by model.match to give a model the cost of the same one with softmax.
_MATCHED = ("model.embed_dim", "model.num_heads", "model.depth")


def attention_of(run: Run) -> str:
    """The option of the config group, or what the command line set in its place."""
    attention = (run.config.get("model") or {}).get("attention")
    return mechanism(None if _sets(run, "model.attention.name") else run.choices.get("attention"), attention)


def model_of(run: Run) -> str:
    """The option of the config group, or timm's name."""
    option = run.choices.get("model")
    named = option in (None, "timm") or _sets(run, "model.name")
    return str((run.config.get("model") or {}).get("name", "–") if named else option)


def source_of(run: Run) -> tuple[str, ...]:
    """The data source; if that is any folder, followed by the parts of its path, or by the name of a torch dataset."""
    data = run.config.get("data") or {}
    name = str(data.get("name", "–"))
    if name in ("own", "torchvision"):
        return name, str(data.get("dataset"))
    return (name, *Path(str(data.get("root"))).expanduser().resolve().parts) if name == "folder" else (name,)


def source_labels(sources: Iterable[tuple[str, ...]]) -> dict[tuple[str, ...], str]:
    """A name for each source: of a folder as many of its last parts as tell it from the others."""
    labels = {}
    sources = set(sources)
    for source in sources:
        lengths = range(1, len(source))
        unique = [n for n in lengths if not any(other[-n:] == source[-n:] for other in sources - {source})]
        labels[source] = str(Path(*source[-unique[0] :] if unique else source[1:] or source))
    return labels


def identity(run: Run, *ignored: str) -> dict[str, str]:
    """The flat configuration without what does not affect the outcome and the `ignored` keys; null is as absent.

    Of a callback that may change what is learnt, its options count but for paths.
    """
    neutral = (*_NEUTRAL, *ignored)
    inside = tuple(f"{key}." for key in neutral)
    flat = {key: text for key, text in run.flat_config.items() if key not in neutral and not key.startswith(inside)}
    acting = tuple(f"callbacks.{name}." for name in _acting_callbacks(run))
    flat |= {key: text for key, text in run.flat_config.items() if key.startswith(acting) and "/" not in text}
    return {key: text for key, text in flat.items() if text != "null"}


def identity_but_attention(run: Run) -> frozenset[tuple[str, str]]:
    """The identity of a run, but for its attention and what `model.match` changes with it."""
    matched = _MATCHED if run.config["model"].get("match") else ()
    return frozenset(identity(run, "model.attention", *matched).items())


def find_settings(runs: Sequence[Run]) -> list[Settings]:
    """Of each run the values that distinguish it; with attention and model they are unique.

    First what the command lines set differently, then what else differs between runs that this leaves alike.

    Args:
        runs: one of each configuration, all on the same data.
    """
    overridden = [text.lstrip("+~").partition("=")[0] for run in runs for text in run.overrides]
    keys = [key for key in dict.fromkeys(overridden) if not _has_its_place(key)]
    found = _add(runs, [{} for _ in runs], ["callbacks", *keys])
    alike: dict[tuple[str, ...], list[Run]] = defaultdict(list)
    for run, settings in zip(runs, found, strict=True):
        alike[attention_of(run), model_of(run), as_text(settings)].append(run)
    further: dict[str, None] = {}
    for same in alike.values():
        configs = [identity(run) for run in same]
        for key in dict.fromkeys(key for config in configs for key in config):
            if len({config.get(key) for config in configs}) > 1:
                further[key] = None
    return _add(runs, found, list(further))


def find_common(settings: Sequence[Settings]) -> Settings:
    """The values that more than half of the configurations share, which need not be repeated for each."""
    common = {}
    for key in settings[0] if settings else ():
        text, number = Counter(as_text(one[key]) for one in settings).most_common(1)[0]
        if 2 * number > len(settings):
            common[key] = next(one[key] for one in settings if as_text(one[key]) == text)
    return common


def find_listed(runs: Sequence[Run], settings: Sequence[Settings]) -> list[Settings]:
    """Of each configuration the settings to name: not those that most share, nor what its choice of model implies."""
    common = find_common(settings)
    by_model: dict[str, list[Settings]] = defaultdict(list)
    for run, one in zip(runs, settings, strict=True):
        by_model[model_of(run)].append(one)
    implied = {model: find_common(members) for model, members in by_model.items()}

    def is_listed(run: Run, key: str, value: Any) -> bool:
        if key.startswith("model.") and not _sets(run, key) and implied[model_of(run)].get(key, ...) == value:
            return False
        # Options of another model, mechanism or callback: their names tell that it has none.
        is_foreign = key.startswith(("model.", "callbacks.")) and key not in run.flat_config
        if is_foreign or key not in common:
            return value is not None
        return common[key] != value

    return [
        {key: value for key, value in one.items() if is_listed(run, key, value)}
        for run, one in zip(runs, settings, strict=True)
    ]


def setting_text(value: Any) -> str:
    """As written on the command line; of a path its last part, of a checkpoint in a run directory the run."""
    if not isinstance(value, str) or "/" not in value:
        return as_text(value)
    path = Path(value)
    return (path.parents[1] if path.parent.name == "checkpoints" else path).name


def _add(runs: Sequence[Run], settings: list[Settings], keys: Sequence[str]) -> list[Settings]:
    """`settings` and the values of those `keys` in which the runs differ."""
    columns = {key: [_value(run, key) for run in runs] for key in keys}
    varying = {key: values for key, values in columns.items() if len(set(map(as_text, values))) > 1}
    return [one | {key: values[row] for key, values in varying.items()} for row, one in enumerate(settings)]


def _has_its_place(key: str) -> bool:
    return key in _NOT_SETTINGS or re.split(r"[./@]", key)[0] in _NOT_SETTINGS_WITHIN


def _value(run: Run, key: str) -> Any:
    """The chosen option of the config group `key`, or the value in the config; None if there is neither."""
    if key == "callbacks":
        return "+".join(_acting_callbacks(run)) or "default"
    if key in run.choices:
        return run.choices[key]
    value: Any = run.config
    for part in key.split("."):
        value = value.get(part) if isinstance(value, dict) else None
    return value


def _acting_callbacks(run: Run) -> list[str]:
    """The names of those that may change what is learnt."""
    callbacks = run.config.get("callbacks")
    options = callbacks.items() if isinstance(callbacks, dict) else ()
    return [name for name, option in options if isinstance(option, dict) and not _watches(option)]


def _watches(option: dict[str, Any]) -> bool:
    package, _, name = str(option.get("_target_")).rpartition(".")
    if package.startswith("fvit."):
        return name not in _ACTING
    return "_target_" not in option or name in _WATCHING


def _sets(run: Run, key: str) -> bool:
    return any(text.lstrip("+").startswith(f"{key}=") for text in run.overrides)
