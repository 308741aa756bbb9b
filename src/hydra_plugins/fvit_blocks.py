"""Hydra finds plugins by importing every module in this package, so this one imports nothing slow."""

from typing import Any

from hydra.core.plugins import Plugins
from hydra.plugins.sweeper import Sweeper
from hydra.types import HydraContext, TaskFunction
from omegaconf import DictConfig


class BlockSweeper(Sweeper):
    """`hydra/sweeper=fvit_blocks`: exchanges one block more at a time, that which costs the least.

    Args:
        options: `fvit.config.schemas.study.Blocks`.
    """

    def __init__(self, **options: Any) -> None:
        self.options = options

    def setup(self, *, hydra_context: HydraContext, task_function: TaskFunction, config: DictConfig) -> None:
        self.hydra_context = hydra_context
        self.config = config
        self.launcher = Plugins.instance().instantiate_launcher(
            hydra_context=hydra_context, task_function=task_function, config=config
        )

    def sweep(self, arguments: list[str]) -> None:
        from fvit.search.blocks import rank_blocks

        rank_blocks(self, self.options, arguments)
