"""Hydra finds plugins by importing every module in this package, so this one imports nothing slow."""

from fvit.search.plugin import OptionsSweeper


class BlockSweeper(OptionsSweeper):
    """`hydra/sweeper=fvit_blocks`: exchanges one block more at a time, that which costs the least.

    Args:
        options: `fvit.config.schemas.study.Blocks`.
    """

    def sweep(self, arguments: list[str]) -> None:
        from fvit.search.blocks import rank_blocks

        rank_blocks(self, self.options, arguments)
