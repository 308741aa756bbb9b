"""Published figures, quoted from papers in published.csv."""

import csv
from collections.abc import Collection
from dataclasses import dataclass
from functools import cache
from pathlib import Path

SOURCES = {
    "FViT": "Wen et al., FViT, IEEE CAI 2024, table 1: truncated, MACs in the papers' convention",
    "DeiT": "Touvron et al., arXiv:2012.12877, table 5: trained on ImageNet-1k",
    "WTF": "Nauen et al., Which Transformer to Favor, arXiv:2308.09372, data of its dashboard "
    "(github.com/tobna/WTF-Benchmark-Dashboard, 5 July 2023), the most accurate run of each model: trained on "
    "ImageNet-21k, then on ImageNet-1k",
}
"""Citations, by the name in the column `source`."""


@dataclass(frozen=True)
class Published:
    """One row; figures as printed, empty if not published.

    Attributes:
        name: the publication's name of the model.
        model: an option of the group `model`, or timm's name.
        attention: an option of the group `attention`.
        res: side of the images in pixels.
        params_m: millions of parameters.
        gmacs: 10⁹ MACs per image.
        images_per_s: throughput in inference, at a batch size of the authors' choice.
        hardware: where the throughput was measured.
        top1: validation accuracy on ImageNet-1k in percent.
        source: a key of `SOURCES`.
    """

    name: str
    model: str
    attention: str
    res: int
    params_m: str
    gmacs: str
    images_per_s: str
    hardware: str
    top1: str
    source: str

    @property
    def where(self) -> str:
        """The citation."""
        return SOURCES[self.source]


@cache
def published() -> tuple[Published, ...]:
    """All rows."""
    with Path(__file__).with_suffix(".csv").open(encoding="utf-8", newline="") as file:
        return tuple(Published(**{**row, "res": int(row["res"])}) for row in csv.DictReader(file))


def published_for(pairs: Collection[tuple[str, str]]) -> list[Published]:
    """The rows whose model and attention are among `pairs`, at any image size."""
    return [figure for figure in published() if (figure.model, figure.attention) in pairs]
