"""Hydra finds its plugins by importing every module in here, so this one imports nothing that is slow."""

from typing import Any

from hydra.core.plugins import Plugins
from hydra.plugins.sweeper import Sweeper
from hydra.types import HydraContext, TaskFunction
from omegaconf import DictConfig


class OptunaSweeper(Sweeper):
    """`hydra/sweeper=fvit_optuna`: has Optuna choose each job's parameters from the results of those before it.

    Args:
        options: `fvit.config.schemas.study.Options`.
    """

    def __init__(self, **options: Any) -> None:
        self.options = options

    def setup(self, *, hydra_context: HydraContext, task_function: TaskFunction, config: DictConfig) -> None:
        """Get hold of the launcher that is configured."""
        self.hydra_context = hydra_context
        self.config = config
        self.launcher = Plugins.instance().instantiate_launcher(
            hydra_context=hydra_context, task_function=task_function, config=config
        )

    def sweep(self, arguments: list[str]) -> None:
        """Search, beginning where an earlier call in the same folder stopped."""
        from fvit.config.errors import RunError

        try:
            import optuna  # noqa: F401
        except ImportError:
            raise RunError("this sweep needs Optuna: pip install 'fvit[optuna]'") from None
        from fvit.search.sweeper import search

        search(self, self.options, arguments)
