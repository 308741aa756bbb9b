"""Hydra finds plugins by importing every module in this package, so this one imports nothing slow."""

from typing import Any

from hydra.core.plugins import Plugins
from hydra.plugins.sweeper import Sweeper
from hydra.types import HydraContext, TaskFunction
from omegaconf import DictConfig


class OptunaSweeper(Sweeper):
    """`hydra/sweeper=fvit_optuna`: Optuna chooses each job's parameters from the results of earlier jobs.

    Args:
        options: `fvit.config.schemas.study.Options`.
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
        from fvit.config.errors import RunError

        try:
            import optuna  # noqa: F401
        except ImportError:
            raise RunError("this sweep needs Optuna: pip install 'fvit[optuna]'") from None
        from fvit.search.sweeper import search

        search(self, self.options, arguments)
