"""Starting a run again where it was stopped: which folder, with which overrides, from which checkpoint."""

import zipfile
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from hydra._internal.utils import get_args_parser
from omegaconf import OmegaConf

from fvit.config.overrides import quoted
from fvit.config.paths import WANDB_ID, conf_dir
from fvit.launch.config_diff import compare
from fvit.launch.lock import check_free, in_use
from fvit.launch.quiet import QUIET
from fvit.launch.ranks import each_decides, is_first
from fvit.launch.run_dir import WELL, is_resumed, overrides_of, read_metrics

LAST = "last"
"""As `ckpt_path`: go on in the run's own folder, or begin afresh where it holds no checkpoint."""

CANDIDATES = ("last.ckpt", "previous.ckpt", "best.ckpt")
"""A folder's checkpoints, those first from which a run goes on."""

_BESIDE = ("ckpt_path", QUIET)  # overrides without which a run is the same


def expand_arguments(argv: Sequence[str]) -> list[str]:
    """Hydra's arguments for those of a command line: what `ckpt_path` says of the run's folder is spelled out.

    ``ckpt_path=last`` without ``hydra.run.dir`` goes on in the newest folder that the same overrides have made and
    that is not finished. ``ckpt_path=FOLDER`` goes on in that folder, with the overrides that it was begun with and
    those given now. Jobs of a sweep have folders of their own, and are left as they are.
    """
    parsed = get_args_parser().parse_known_args(list(argv))[0]
    overrides = parsed.overrides
    given = {_key(override): override.partition("=")[2].strip("'\"") for override in overrides}
    path = given.get("ckpt_path", "null")
    sweeps = parsed.multirun or given.get("hydra.mode") == "MULTIRUN" or given.get("sweep", "null") != "null"
    if path == "null" or sweeps or "hydra.run.dir" in given:
        return list(argv)
    # Flags first: Hydra takes no overrides on both sides of one.
    flags = [argument for argument in argv if argument not in overrides]
    if path == LAST:
        folder = _unfinished(overrides)
        return list(argv) if folder is None else [*flags, *overrides, _run_dir(folder)]
    folder = Path(path).expanduser()
    if not (recorded := overrides_of(folder)):
        return list(argv)
    kept = [override for override in recorded if _key(override) not in given]
    others = [override for override in overrides if _key(override) != "ckpt_path"]
    return [*flags, *kept, *others, f"ckpt_path={LAST}", _run_dir(folder)]


def find_checkpoint(config: dict[str, Any]) -> dict[str, Any]:
    """`config` with the checkpoint that `ckpt_path` means: a file, or None to begin afresh.

    A damaged file is named, and the one before it taken. Settings that differ from those of the run that wrote the
    checkpoint are named.

    Raises:
        RunError: another process is at work in the folder.
        ValueError: all checkpoints are damaged, the model is another one, several machines would each decide for
            themselves, or another run's checkpoints lie where this one's would.
    """
    folder = Path(config["output_dir"])
    asked = config["ckpt_path"]
    if asked is None:
        _check_unused(folder)
        return _afresh(config, folder)
    if asked == LAST and each_decides(config["trainer"]):
        raise ValueError(
            "ckpt_path: several machines would each look for a checkpoint, and may find different ones. Name a file "
            "that all of them see, ckpt_path=RUN/checkpoints/last.ckpt with hydra.run.dir=RUN; or start with torchrun "
            "(hardware=torchrun), where the first process decides for all"
        )
    place = folder if asked == LAST else Path(asked).expanduser()
    if place.is_file():
        checkpoint, run = place, place.parent.parent
    else:
        checkpoint, run = newest(place), place
    if asked == LAST:
        check_free(folder)
        if checkpoint is None:
            _say(f"ckpt_path=last: {folder} holds no checkpoint, so training begins afresh")
            return _afresh(config, folder)
    if checkpoint is None:  # whoever opens it says what is wrong
        return config
    _say(f"going on from {checkpoint}")
    if (run / "config.yaml").is_file():
        recorded = OmegaConf.to_container(OmegaConf.load(run / "config.yaml"))
        if differing := compare(recorded, config, run):
            _say(f"with other settings than before: {', '.join(differing)}")
    settled = {**config, "ckpt_path": str(checkpoint)}
    if not is_resumed(settled):
        _check_unused(folder)
    return settled


def newest(folder: Path) -> Path | None:
    """The newest whole checkpoint of a run's folder, None if it has none at all; damaged ones are named.

    Raises:
        ValueError: there are checkpoints, and all of them are damaged.
    """
    found = [path for name in CANDIDATES for path in (folder / "checkpoints" / name, folder / name) if path.is_file()]
    for path in found:
        if _is_whole(path):
            return path
        _say(f"{path} ({path.stat().st_size} bytes) is damaged or truncated, so the one before it is taken")
    if found:
        raise ValueError(
            f"all checkpoints of {folder} are damaged: {', '.join(path.name for path in found)}. "
            "Remove them to begin afresh"
        )
    return None


def _unfinished(overrides: Sequence[str]) -> Path | None:
    """The newest run's folder with these overrides that neither is finished nor has a process at work."""
    pattern = OmegaConf.to_container(OmegaConf.load(conf_dir() / "train.yaml"), resolve=False)["hydra"]["run"]["dir"]
    wanted = _comparable(overrides)
    folders = [path.parent.parent for path in Path(pattern).parent.glob("*/.hydra/overrides.yaml")]
    for folder in sorted(folders, key=lambda folder: (folder / ".hydra" / "overrides.yaml").stat().st_mtime_ns)[::-1]:
        finished = (read_metrics(folder) or {}).get("status") in WELL
        if not finished and _comparable(overrides_of(folder)) == wanted and not in_use(folder):
            return folder
    return None


def _comparable(overrides: Sequence[str]) -> list[str]:
    return sorted(text for text in overrides if _key(text) not in _BESIDE and not text.startswith("hydra"))


def _check_unused(folder: Path) -> None:
    """Refuse a folder with checkpoints: killed before its first one, this run would go on from another run's."""
    if found := [name for name in CANDIDATES if (folder / "checkpoints" / name).is_file()]:
        raise ValueError(
            f"{folder} holds checkpoints of a run that is there already ({', '.join(found)}): go on from them with "
            "ckpt_path=last, begin in another folder (hydra.run.dir=DIR, or without it), or remove them"
        )


def _afresh(config: dict[str, Any], folder: Path) -> dict[str, Any]:
    # Else W&B would go on with the run that this one replaces.
    if is_first():
        (folder / WANDB_ID).unlink(missing_ok=True)
    return {**config, "ckpt_path": None}


def _is_whole(path: Path) -> bool:
    # As in `fvit.training.checkpoint`, which brings torch: a zip archive's directory stands at its end, and there is a
    # checksum for each of its members.
    try:
        with zipfile.ZipFile(path) as archive:
            return archive.testzip() is None
    except zipfile.BadZipFile:
        return False


def _key(override: str) -> str:
    return override.partition("=")[0].lstrip("+~")


def _run_dir(folder: Path) -> str:
    return f"hydra.run.dir={quoted(str(folder))}"


def _say(line: str) -> None:
    from fvit.launch.console import console

    if is_first():
        console.print(line, markup=False, soft_wrap=True)
