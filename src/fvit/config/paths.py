"""Where the configuration lies: inside an installed package, or beside src/ in a checkout."""

from pathlib import Path

import fvit

WANDB_ID = "wandb_id"
"""The file of a run's folder that holds the id of its W&B run."""


def conf_dir() -> Path:
    """The folder that holds train.yaml and the config groups.

    Raises:
        FileNotFoundError: neither place has it; the installation is broken.
    """
    package = Path(fvit.__file__).parent
    for folder in (package / "conf", package.parents[1] / "conf"):
        if (folder / "train.yaml").is_file():
            return folder
    raise FileNotFoundError(f"no conf/train.yaml in {package} or {package.parents[1]}; install fvit again")
