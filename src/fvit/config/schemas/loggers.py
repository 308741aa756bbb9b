"""What the configuration of a run's loggers may hold."""

from importlib.util import find_spec
from pathlib import Path
from typing import Any, Literal

from pydantic import model_validator

from fvit.config.schemas.fields import Count, Open, WandbProject
from fvit.config.signature import signature
from fvit.config.validation import check_options


class Wandb(Open):
    project: WandbProject
    name: str
    group: str | None
    job_type: str
    tags: list[str]
    media: Count
    artifacts: Literal["off", "best", "all"]
    offline: bool
    run_dir: str
    save_dir: str

    @model_validator(mode="after")
    def _options_of_init(self) -> "Wandb":
        package = find_spec("wandb")
        init = signature(Path(package.origin).parent / "sdk" / "wandb_init.py", function="init")
        ours = {"dir", "mode", "config", "settings", "resume"}
        further = {key: value for key, value in (self.model_extra or {}).items() if key != "_target_"}
        check_options(further, {name: Any for name in init if name not in ours}, "logger.wandb")
        return self


class Loggers(Open):
    wandb: Wandb | None = None
