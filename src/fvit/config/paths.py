"""Where configuration files and the files of a run are."""

from pathlib import Path

import fvit

WANDB_ID = "wandb_id"
"""File in a run directory with the id of its W&B run."""


def conf_dir() -> Path:
    """The folder with train.yaml and the config groups: inside an installed package, next to src/ in a checkout.

    Raises:
        FileNotFoundError: it is in neither place.
    """
    package = Path(fvit.__file__).parent
    for folder in (package / "conf", package.parents[1] / "conf"):
        if (folder / "train.yaml").is_file():
            return folder
    raise FileNotFoundError(f"no conf/train.yaml in {package} or {package.parents[1]}; reinstall fvit")
