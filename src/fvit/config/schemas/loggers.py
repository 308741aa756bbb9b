"""Schema of ``logger``."""

from typing import Literal

from fvit.config.schemas.fields import Count, Open, WandbProject


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


class Loggers(Open):
    wandb: Wandb | None = None
