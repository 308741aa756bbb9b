"""Figures that others have published, quoted and not measured here: published.csv beside this file."""

import csv
from collections.abc import Collection
from dataclasses import dataclass
from functools import cache
from pathlib import Path

SOURCES = {
    "FViT": "Wen et al., FViT, IEEE CAI 2024, table 1: truncated, MACs the paper's way",
    "DeiT": "Touvron et al., arXiv:2012.12877, table 5: trained on ImageNet-1k",
    "WTF": "Nauen et al., Which Transformer to Favor, arXiv:2308.09372, the data of its dashboard "
    "(github.com/tobna/WTF-Benchmark-Dashboard, 5 July 2023), of several runs the most accurate: trained on "
    "ImageNet-21k, then on ImageNet-1k",
}
"""Where each can be looked up, by the name in the column `source`."""


@dataclass(frozen=True)
class Published:
    """One row, as printed there; what is not printed is empty.

    Attributes:
        name: of the model, there.
        model: here: an option of the group `model`, or the name given to timm.
        attention: an option of the group `attention`.
        res: side of the images in pixels.
        params_m: parameters, in millions.
        gmacs: multiply-accumulates of one image, in 10⁹.
        images_per_s: in inference, at a batch of the authors' choice.
        hardware: on which those were measured.
        top1: accuracy on the validation images of ImageNet-1k, in percent.
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
        """Where it can be looked up."""
        return SOURCES[self.source]


@cache
def published() -> tuple[Published, ...]:
    """All rows."""
    with Path(__file__).with_suffix(".csv").open(encoding="utf-8", newline="") as file:
        return tuple(Published(**{**row, "res": int(row["res"])}) for row in csv.DictReader(file))


def beside(pairs: Collection[tuple[str, str]]) -> list[Published]:
    """Those of the same model and attention as one of `pairs`, whatever the size of the images."""
    return [figure for figure in published() if (figure.model, figure.attention) in pairs]
