"""Resuming a run: its directory, its overrides, and the checkpoint that `ckpt_path` stands for."""

import shlex
import zipfile
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from hydra._internal.utils import get_args_parser
from hydra.core.override_parser.types import Override
from omegaconf import OmegaConf
from omegaconf.errors import OmegaConfBaseException

from fvit.config.overrides import argument, parse, quoted, value_of
from fvit.config.paths import conf_dir
from fvit.config.recorded import overrides_of
from fvit.launch.config_diff import compare
from fvit.launch.lock import check_free, in_use
from fvit.launch.quiet import QUIET
from fvit.launch.ranks import is_rank_zero
from fvit.launch.record import COMPLETED, read_metrics
from fvit.launch.run_dir import is_resumed

LAST = "last"
"""As `ckpt_path`: resume in the run's own directory, or start from scratch if it holds no checkpoint."""

CANDIDATES = ("last.ckpt", "previous.ckpt", "best.ckpt")
"""The checkpoints in a run directory, in the order of preference for resuming."""

_LISTED = 5  # unfinished runs that are shown


def expand_arguments(argv: Sequence[str]) -> list[str]:
    """Hydra's arguments for those of a command line, with the run directory that `ckpt_path` stands for.

    ``ckpt_path=last`` without ``hydra.run.dir`` resumes the newest unfinished run with the same overrides; if there is
    none, it prints which others could be resumed. ``ckpt_path=FOLDER`` resumes the run in that directory, with the
    overrides that started it and those given now. Jobs of a sweep have directories of their own, so a sweep's arguments
    are unchanged.
    """
    parsed = get_args_parser().parse_known_args(list(argv))[0]
    overrides = parsed.overrides
    typed = parse(overrides)
    given = dict(typed)
    path, preset, mode = (_text(given.get(key)) for key in ("ckpt_path", "sweep", "hydra.mode"))
    if path is None or parsed.multirun or preset is not None or mode == "MULTIRUN" or "hydra.run.dir" in given:
        return list(argv)
    # Options come first: Hydra takes no overrides on both sides of one.
    options = [argument for argument in argv if argument not in overrides]
    if path == LAST:
        unfinished = [(folder, _differences(recorded, overrides)) for folder, recorded in _unfinished()]
        if folder := next((folder for folder, differences in unfinished if not differences), None):
            return [*options, *overrides, _run_dir(folder)]
        if not (parsed.cfg or parsed.help or parsed.hydra_help or parsed.info):
            _print_unfinished(unfinished)
        return list(argv)
    folder = Path(path).expanduser()
    if (recorded := overrides_of(folder)) is None:
        return list(argv)
    # A job of a sweep has recorded the preset that swept.
    kept = [override.input_line for key, override in parse(recorded) if key not in {*given, "sweep"}]
    others = [override.input_line for key, override in typed if key != "ckpt_path"]
    return [*options, *kept, *others, f"ckpt_path={LAST}", _run_dir(folder)]


def find_checkpoint(config: dict[str, Any]) -> dict[str, Any]:
    """`config` with the file that `ckpt_path` stands for, or None to start from scratch.

    Prints which checkpoint that is, which ones are damaged, and how the configuration differs from the recorded one.

    Raises:
        RunError: another process uses the run directory.
        ValueError: all checkpoints are damaged, the model is another one, or a new run would start in a directory with
            checkpoints.
    """
    folder = Path(config["output_dir"])
    ckpt_path = config["ckpt_path"]
    if ckpt_path is None:
        _check_unused(folder)
        return config
    path = folder if ckpt_path == LAST else Path(ckpt_path).expanduser()
    if path.is_file():
        checkpoint, run = path, path.parent.parent
    else:
        checkpoint, run = newest(path), path
    if ckpt_path == LAST:
        check_free(folder)
        if checkpoint is None:
            _print(f"ckpt_path=last: there is no checkpoint in {folder}, training starts from scratch")
            return {**config, "ckpt_path": None}
    if checkpoint is None:  # whoever opens it reports why
        return config
    _print(f"resuming from {checkpoint}")
    found = {**config, "ckpt_path": str(checkpoint)}
    in_place = is_resumed(found)
    if (run / "config.yaml").is_file():
        recorded = OmegaConf.to_container(OmegaConf.load(run / "config.yaml"))
        found = _with_recorded_source(found, recorded.get("model", {}))
        if changes := compare(recorded, found, run, in_place):
            _print(f"settings that changed: {', '.join(changes)}")
    if not in_place:
        _check_unused(folder)
        if config["model"].get("init_from") is not None:
            raise ValueError(
                f"model.init_from has no effect with ckpt_path={ckpt_path}, whose weights a new run starts with: leave "
                "one of them out"
            )
    return found


def _with_recorded_source(config: dict[str, Any], recorded: dict[str, Any]) -> dict[str, Any]:
    """`config` with what a run recorded of the folder or hub that its model is from, and which may be gone by now."""
    model = config["model"]
    if recorded.get("origin") != model["name"]:
        return config
    keys = ["name", "origin", "pretrained", "init_from", "pretrained_cfg_overlay"]
    keys += ["attention", "blocks"] if model["attention"]["name"] == "native" else []
    return {**config, "model": {**recorded, **model, **{key: recorded[key] for key in keys if key in recorded}}}


def newest(folder: Path) -> Path | None:
    """The newest intact checkpoint in a run directory, None if there are none at all.

    Raises:
        ValueError: all checkpoints are damaged.
    """
    found = [path for name in CANDIDATES for path in (folder / "checkpoints" / name, folder / name) if path.is_file()]
    for path in found:
        if _is_intact(path):
            return path
        _print(f"{path} ({path.stat().st_size} bytes) is damaged or truncated, using the one before it")
    if found:
        raise ValueError(
            f"all checkpoints in {folder} are damaged: {', '.join(path.name for path in found)}. "
            "Remove them to start from scratch"
        )
    return None


def _unfinished() -> list[tuple[Path, list[str]]]:
    """The run directories that are neither finished nor in use, the newest first, and their overrides."""
    pattern = OmegaConf.to_container(OmegaConf.load(conf_dir() / "train.yaml"), resolve=False)["hydra"]["run"]["dir"]
    paths = Path(pattern).parent.glob("*/.hydra/overrides.yaml")
    folders = [path.parent.parent for path in sorted(paths, key=lambda path: path.stat().st_mtime_ns, reverse=True)]
    return [
        (folder, overrides_of(folder) or [])
        for folder in folders
        if (read_metrics(folder) or {}).get("status") not in COMPLETED and not in_use(folder)
    ]


def _differences(recorded: Sequence[str], given: Sequence[str]) -> list[tuple[str | None, str | None]]:
    """The pairs of a recorded and a given override for the same key that differ; None where one is missing."""
    before, now = (
        {
            key: override
            for key, override in parse(overrides)
            if key not in ("ckpt_path", QUIET) and not key.startswith("hydra")  # without effect on what the run is
        }
        for overrides in (recorded, given)
    )
    pairs = [(before.get(key), now.get(key)) for key in {**before, **now}]
    return [
        (old and old.input_line, new and new.input_line)
        for old, new in pairs
        if not (old and new) or (old.is_delete(), old.value()) != (new.is_delete(), new.value())
    ]


def _print_unfinished(unfinished: Sequence[tuple[Path, list[tuple[str | None, str | None]]]]) -> None:
    """The runs with a checkpoint, those first that differ least, as the commands that resume them."""
    found = [(folder, differences) for folder, differences in unfinished if _checkpoints(folder)]
    if not found:
        return
    _print("ckpt_path=last: no unfinished run has these overrides, so a new one starts. To resume another, whose")
    _print("overrides are kept where none is given:")
    for folder, differences in sorted(found, key=lambda run: len(run[1]))[:_LISTED]:
        command = ["fvit-train", argument("ckpt_path", folder), *(shlex.quote(new) for _, new in differences if new)]
        its = [old for old, _ in differences if old]
        _print("  " + " ".join(command) + (f"   # it has {', '.join(its)}" if its else ""))
    if len(found) > _LISTED:
        _print(f"  and {len(found) - _LISTED} more in {found[0][0].parent}")


def _check_unused(folder: Path) -> None:
    """Refuse a directory with checkpoints: a new run that is killed early would resume from them."""
    if found := _checkpoints(folder):
        raise ValueError(
            f"{folder} holds checkpoints of an earlier run ({', '.join(found)}): resume it with ckpt_path=last, start "
            "in another directory (hydra.run.dir=DIR, or without it), or remove them"
        )


def _checkpoints(folder: Path) -> list[str]:
    return [name for name in CANDIDATES if (folder / "checkpoints" / name).is_file()]


def _is_intact(path: Path) -> bool:
    """As `fvit.training.checkpoint` checks it, which imports torch: by the CRC-32 of each member of the zip archive."""
    try:
        with zipfile.ZipFile(path) as archive:
            return archive.testzip() is None
    except zipfile.BadZipFile:
        return False


def _text(override: Override | None) -> str | None:
    """The value as a path or a name, which Hydra may take for a number; None for null."""
    if override is None:
        return None
    typed = override.input_line.partition("=")[2]
    try:
        value = value_of(override)
    except OmegaConfBaseException:  # Hydra knows more, or says what is wrong
        return typed
    return value if isinstance(value, str | None) else typed


def _run_dir(folder: Path) -> str:
    return f"hydra.run.dir={quoted(str(folder))}"


def _print(line: str) -> None:
    from fvit.launch.console import print_as_it_is

    if is_rank_zero():
        print_as_it_is(line)
