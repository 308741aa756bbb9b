"""What an exchange did to each block."""

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import groupby

from torch import nn


@dataclass(frozen=True)
class BlockReport:
    """What an exchange did to one block.

    Parameters are named after what they do, joint or not: `q.weight`, `k.weight` and `v.weight` may lie in one `qkv`.

    Attributes:
        block: its index.
        old: class of the attention that was there.
        new: class of the mechanism that took its place.
        kept: parameters of the new one that hold the old one's values.
        initialised: parameters of the new one that start afresh.
        dropped: what the old one had and the new one lacks or was not to keep: parameters, and the position modules of
            the model that it used (`rope`, `rel_pos_bias`, `shared_rel_pos`).
    """

    block: int
    old: str
    new: str
    kept: tuple[str, ...]
    initialised: tuple[str, ...]
    dropped: tuple[str, ...]


def exchange_rows(model: nn.Module) -> list[tuple[str, str, str, str, str]]:
    """The reports of a model as rows of a table: blocks, attention, kept, initialised, dropped.

    Neighbouring blocks to which the same was done share a row, and a weight and its bias a name. There are no rows
    where nothing was exchanged.
    """

    def content(report: BlockReport) -> tuple[str, ...]:
        names = (_modules(names) for names in (report.kept, report.initialised, report.dropped))
        return (f"{report.old} → {report.new}", *names)

    # Along a run of neighbours the index and the place in the list grow alike.
    runs = groupby(
        enumerate(getattr(model, "exchange_report", ())), key=lambda pair: (pair[1].block - pair[0], content(pair[1]))
    )
    found = []
    for (_, columns), run in runs:
        blocks = [report.block for _, report in run]
        found.append((str(blocks[0]) if len(blocks) == 1 else f"{blocks[0]}-{blocks[-1]}", *columns))
    return found


def _modules(names: Sequence[str]) -> str:
    return ", ".join(dict.fromkeys(name.removesuffix(".weight").removesuffix(".bias") for name in names)) or "–"
