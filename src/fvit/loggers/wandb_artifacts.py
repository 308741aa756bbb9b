"""What W&B keeps the versions of: checkpoints that a run makes, the set of images that it uses."""

import json
import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

from lightning import Trainer

if TYPE_CHECKING:
    import wandb


@contextmanager
def staged(folder: Path) -> Iterator[None]:
    """Have W&B put copies of what is to be uploaded beside its runs, instead of into the user's home.

    An offline run needs them until it is sent, and names them by their full path.
    """
    key = "WANDB_DATA_DIR"
    before = os.environ.get(key)
    os.environ.setdefault(key, str((folder / "staged").resolve()))
    try:
        yield
    finally:
        if before is None:
            del os.environ[key]


def use_dataset(run: "wandb.Run", name: str, facts: dict[str, Any], root: str | None) -> None:
    """Note a set of images as an artifact that the run uses: what is known of it and where it lies, no image.

    Other facts are another version; the same ones at another place are not. There is no reference to the place, because
    W&B would list each file of it.
    """
    import wandb

    artifact = wandb.Artifact(_name(f"data-{name}"), type="dataset", metadata={**facts, "root": root})
    with artifact.new_file("dataset.json") as file:
        json.dump(facts, file, indent=1)
    # What `run.use_artifact` does, which refuses to where a run is offline, and waits for the server where it is not.
    run._log_artifact(artifact, aliases=[], is_user_created=True, use_after_commit=True)


def log_checkpoints(run: "wandb.Run", trainer: Trainer, with_last: bool) -> list["wandb.Artifact"]:
    """Log the best checkpoint, alias ``best``, and the last one, alias ``last``, as versions of one model."""
    import wandb

    logged = []
    for checkpoint in trainer.checkpoint_callbacks:
        alias, path = "last" if checkpoint.monitor is None else "best", checkpoint.best_model_path
        if path and Path(path).exists() and (with_last or alias == "best"):
            artifact = wandb.Artifact(f"model-{run.id}", type="model")
            add = artifact.add_dir if Path(path).is_dir() else artifact.add_file  # one that is sharded is a folder
            add(path, name=Path(path).name)
            logged.append(run.log_artifact(artifact, aliases=[alias]))
    return logged


def _name(text: str) -> str:
    return "".join(letter if letter.isalnum() or letter in "-_." else "-" for letter in text)
