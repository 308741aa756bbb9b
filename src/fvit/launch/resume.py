"""Resuming a run: its directory, its overrides, and the checkpoint that `ckpt_path` stands for."""

import zipfile
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from hydra._internal.utils import get_args_parser
from hydra.core.override_parser.overrides_parser import OverridesParser
from omegaconf import OmegaConf

from fvit.config.overrides import quoted
from fvit.config.paths import conf_dir
from fvit.launch.config_diff import compare
from fvit.launch.lock import check_free, in_use
from fvit.launch.quiet import QUIET
from fvit.launch.ranks import is_rank_zero
from fvit.launch.record import COMPLETED, overrides_of, read_metrics
from fvit.launch.run_dir import is_resumed

LAST = "last"
"""As `ckpt_path`: resume in the run's own directory, or start from scratch if it holds no checkpoint."""

CANDIDATES = ("last.ckpt", "previous.ckpt", "best.ckpt")
"""The checkpoints in a run directory, in the order of preference for resuming."""


def expand_arguments(argv: Sequence[str]) -> list[str]:
    """Hydra's arguments for those of a command line, with the run directory that `ckpt_path` stands for.

    ``ckpt_path=last`` without ``hydra.run.dir`` resumes the newest unfinished run with the same overrides.
    ``ckpt_path=FOLDER`` resumes the run in that directory, with the overrides that started it and those given now. Jobs
    of a sweep have directories of their own, so a sweep's arguments are unchanged.
    """
    parsed = get_args_parser().parse_known_args(list(argv))[0]
    overrides = parsed.overrides
    given = {_key(override): override for override in overrides}
    path, preset, mode = (_value(given.get(key)) for key in ("ckpt_path", "sweep", "hydra.mode"))
    if path is None or parsed.multirun or preset is not None or mode == "MULTIRUN" or "hydra.run.dir" in given:
        return list(argv)
    # Options come first: Hydra takes no overrides on both sides of one.
    options = [argument for argument in argv if argument not in overrides]
    if path == LAST:
        folder = _unfinished(overrides)
        return list(argv) if folder is None else [*options, *overrides, _run_dir(folder)]
    folder = Path(str(path)).expanduser()
    if not (recorded := overrides_of(folder)):
        return list(argv)
    kept = [override for override in recorded if _key(override) not in given]
    others = [override for override in overrides if _key(override) != "ckpt_path"]
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
    if (run / "config.yaml").is_file():
        recorded = OmegaConf.to_container(OmegaConf.load(run / "config.yaml"))
        if changes := compare(recorded, config, run):
            _print(f"settings that changed: {', '.join(changes)}")
    found = {**config, "ckpt_path": str(checkpoint)}
    if not is_resumed(found):
        _check_unused(folder)
    return found


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


def _unfinished(overrides: Sequence[str]) -> Path | None:
    """The newest run directory with these overrides that is neither finished nor in use."""
    pattern = OmegaConf.to_container(OmegaConf.load(conf_dir() / "train.yaml"), resolve=False)["hydra"]["run"]["dir"]
    wanted = _comparable(overrides)
    recorded = Path(pattern).parent.glob("*/.hydra/overrides.yaml")
    for path in sorted(recorded, key=lambda path: path.stat().st_mtime_ns, reverse=True):
        folder = path.parent.parent
        finished = (read_metrics(folder) or {}).get("status") in COMPLETED
        if not finished and _comparable(overrides_of(folder)) == wanted and not in_use(folder):
            return folder
    return None


def _comparable(overrides: Sequence[str]) -> list[str]:
    keys = ("ckpt_path", QUIET)  # without effect on what the run is
    return sorted(text for text in overrides if _key(text) not in keys and not text.startswith("hydra"))


def _check_unused(folder: Path) -> None:
    """Refuse a directory with checkpoints: a new run that is killed early would resume from them."""
    if found := [name for name in CANDIDATES if (folder / "checkpoints" / name).is_file()]:
        raise ValueError(
            f"{folder} holds checkpoints of an earlier run ({', '.join(found)}): resume it with ckpt_path=last, start "
            "in another directory (hydra.run.dir=DIR, or without it), or remove them"
        )


def _is_intact(path: Path) -> bool:
    """As `fvit.training.checkpoint` checks it, which imports torch: by the CRC-32 of each member of the zip archive."""
    try:
        with zipfile.ZipFile(path) as archive:
            return archive.testzip() is None
    except zipfile.BadZipFile:
        return False


def _key(override: str) -> str:
    return override.partition("=")[0].lstrip("+~")


def _value(override: str | None) -> Any:
    return OverridesParser.create().parse_override(override).value() if override is not None else None


def _run_dir(folder: Path) -> str:
    return f"hydra.run.dir={quoted(str(folder))}"


def _print(line: str) -> None:
    from fvit.launch.console import console

    if is_rank_zero():
        console.print(line, markup=False, soft_wrap=True)
