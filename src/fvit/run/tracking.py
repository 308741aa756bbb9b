"""Weights & Biases without an account: a run that cannot be sent is kept, and says so in one line."""

import os
import secrets
import sys
from pathlib import Path
from typing import Any

from lightning.pytorch.loggers import WandbLogger
from lightning.pytorch.utilities import rank_zero_only

from fvit.run.console import console
from fvit.run.paths import WANDB_ID
from fvit.run.record import write


def wandb_logger(
    save_dir: str | Path, project: str, name: str, run_dir: str | Path, offline: bool = False, **options: Any
) -> WandbLogger:
    """Lightning's WandbLogger, offline if there is no key; a run that goes on in its folder stays one run of W&B.

    Args:
        save_dir: holds the folder wandb/, one for all runs of a project.
        project: of W&B.
        name: of the run.
        run_dir: the run's folder, which keeps the id.
        offline: keep the run here even if there is a key.
        options: further arguments of ``wandb.init``, such as `group` and `tags`.
    """
    mode = "offline" if offline else os.environ.get("WANDB_MODE")
    if mode is None and not _has_key():
        mode = "offline"
        _say(f"W&B: no API key, so this run stays offline in {save_dir}/wandb; send it later with `wandb sync`")
    Path(save_dir).mkdir(parents=True, exist_ok=True)
    # Not Lightning's offline=True: it sets WANDB_MODE for the whole process, and so for the next job of a sweep.
    options.setdefault("id", _run_id(Path(run_dir)))
    return WandbLogger(name=name, project=project, save_dir=save_dir, mode=mode or "online", resume="allow", **options)


@rank_zero_only
def _run_id(folder: Path) -> str:
    """The id that the folder holds; a new one, if it holds none."""
    path = folder / WANDB_ID
    if not path.is_file():
        folder.mkdir(parents=True, exist_ok=True)
        write(path, secrets.token_hex(4))
    return path.read_text(encoding="utf-8")


@rank_zero_only
def _say(line: str) -> None:
    console.print(line)


def _has_key() -> bool:
    """Whether W&B finds a key (environment, netrc); it neither asks for one nor opens a connection."""
    import wandb

    return wandb.login(prompt=False, verify=False)


def finish_wandb(failed: bool, preempted: bool = False) -> None:
    """Close this process's W&B run, if any: a job of a sweep would otherwise write into the one before it.

    Args:
        failed: for W&B, a run that did not come to its end.
        preempted: it will be gone on with; an agent of a W&B sweep then starts it again.
    """
    if "wandb" in sys.modules:
        import wandb

        if wandb.run is not None:
            if preempted:
                wandb.run.mark_preempting()
            wandb.finish(exit_code=int(failed))
