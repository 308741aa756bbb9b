"""Hydra finds plugins by importing every module in this package, so this one imports nothing slow."""

from fvit.search.plugin import OptionsSweeper


class OptunaSweeper(OptionsSweeper):
    """`hydra/sweeper=fvit_optuna`: Optuna chooses each job's parameters from the results of earlier jobs.

    Args:
        options: `fvit.config.schemas.study.Options`.
    """

    def sweep(self, arguments: list[str]) -> None:
        from fvit.config.errors import RunError

        try:
            import optuna  # noqa: F401
        except ImportError:
            raise RunError("this sweep needs Optuna: pip install 'fvit[optuna]'") from None
        from fvit.search.sweeper import search

        search(self, self.options, arguments)
