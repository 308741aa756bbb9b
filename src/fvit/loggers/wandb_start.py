"""Beginning a run of W&B: at the server where it takes it, else here, and one line says why."""

import os
import shlex
import shutil
import time
from pathlib import Path
from typing import TYPE_CHECKING, Any

from pydantic import ValidationError

from fvit.config.errors import ConfigError
from fvit.launch.console import console
from fvit.loggers.wandb_server import asked_mode, first_line, has_key

if TYPE_CHECKING:
    import wandb

# Seconds that a server may take to begin a run, and then, at the end, to take what is left of it.
_PATIENCE_AT_START, _PATIENCE_AT_END = 15.0, 12.0


def begin(arguments: dict[str, Any], save_dir: Path, kept_here: bool) -> "wandb.Run":
    """Begin a run.

    Args:
        arguments: of `wandb.init`.
        save_dir: holds the folder wandb/ with its runs.
        kept_here: whether to ask no server, even if there is a key.

    Raises:
        ConfigError: W&B refuses an option.
    """
    import wandb

    try:
        return _begin(arguments, save_dir, kept_here)
    except wandb.errors.UsageError as error:
        raise ConfigError(f"logger.wandb: {first_line(error)}") from error
    except ValidationError as error:  # also of what W&B takes from the environment
        [*_, fault] = error.errors()
        name, message = ".".join(map(str, fault["loc"])), fault["msg"]
        raise ConfigError(f"W&B does not take {name}={fault['input']}: {message[0].lower()}{message[1:]}") from error


def _begin(arguments: dict[str, Any], save_dir: Path, kept_here: bool) -> "wandb.Run":
    import wandb

    save_dir.mkdir(parents=True, exist_ok=True)
    folder = save_dir / "wandb"
    began = time.monotonic()
    mode, reason = _mode(kept_here)
    run = None
    if mode == "online":
        patience = max(1.0, _PATIENCE_AT_START - (time.monotonic() - began))
        run, reason = _begin_online(arguments, folder, patience)
        mode = "offline"
    if run is None:
        run = wandb.init(**arguments, mode=mode, settings=wandb.Settings(silent=True))
        if mode == "offline":
            place, all_runs = (shlex.quote(os.path.relpath(path)) for path in (Path(run.dir).parent, folder))
            _say(
                f"W&B: {reason}, so this run stays offline in {place}; "
                f"look at it with `wandb leet {all_runs}`, send it with `wandb sync {place}`"
            )
    # What curves are drawn over, if nobody chooses progress/images_seen, progress/device_hours or epoch.
    run.define_metric("trainer/global_step")
    run.define_metric("*", step_metric="trainer/global_step", step_sync=True)
    return run


def _begin_online(arguments: dict[str, Any], folder: Path, patience: float) -> tuple["wandb.Run | None", str]:
    """The run, or None and the reason; of one that did not begin nothing is left in `folder`."""
    import wandb

    settings = wandb.Settings(
        quiet=True,  # else it asks the server more than once who we are
        init_timeout=patience,
        finish_timeout=_PATIENCE_AT_END,
    )
    before = set(folder.glob("run-*"))
    try:
        run = wandb.init(**arguments, mode="online", settings=settings)
    except wandb.errors.Error as error:
        wandb.teardown(exit_code=1)  # else the id counts as one in use
        for begun in set(folder.glob("run-*")) - before:
            shutil.rmtree(begun, ignore_errors=True)
        return None, f"the server does not take the run ({first_line(error)})"
    _say(f"W&B: {run.url}")
    return run, ""


def _mode(kept_here: bool) -> tuple[str, str]:
    """W&B's mode, and the reason if that is offline; within 16 seconds."""
    if kept_here:
        return "offline", "logger.wandb.offline=true"
    if (asked := asked_mode()) != "online":
        return asked, f"W&B's mode is {asked}"
    try:
        return ("online", "") if has_key() else ("offline", "no API key")
    except ConnectionError as error:
        return "offline", str(error)


def _say(line: str) -> None:
    console.print(line, markup=False, soft_wrap=True)
