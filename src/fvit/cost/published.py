"""Published numbers, quoted from papers in published.csv."""

import csv
from collections.abc import Collection
from dataclasses import dataclass
from functools import cache
from pathlib import Path

SOURCES = {
    "FViT": "Wen et al., FViT, IEEE CAI 2024, table 1: truncated, MACs in the papers' convention",
    "DeiT": "Touvron et al., arXiv:2012.12877, table 5: trained on ImageNet-1k",
    "WTF": "Nauen et al., Which Transformer to Favor, arXiv:2308.09372, data of its dashboard "
    "(github.com/tobna/WTF-Benchmark-Dashboard, 5 July 2023), the most accurate run of each model at each size: "
    "trained on ImageNet-21k, then on ImageNet-1k",
    "MHLA": "Zhang et al., arXiv:2601.07832, table 2a",
    "FLatten": "Han et al., arXiv:2308.00442, table 3",
    "SLAB": "Guo et al., arXiv:2405.11582, README of github.com/xinghaochen/SLAB",
    "InLine": "Han et al., arXiv:2412.06590, README of github.com/LeapLabTHU/InLine",
    "Agent": "Han et al., arXiv:2312.08874, README of github.com/LeapLabTHU/Agent-Attention",
    "Circulant": "arXiv:2512.21542, README of github.com/LeapLabTHU/Circulant-Attention",
    "VRWKV": "Duan et al., Vision-RWKV, arXiv:2403.02308, README of github.com/OpenGVLab/Vision-RWKV",
    "ViT3": "arXiv:2512.01643, README of github.com/LeapLabTHU/ViTTT",
    "ViG": "Liao et al., arXiv:2405.18425, README of github.com/hustvl/ViG",
    "Vim": "Zhu et al., Vision Mamba, arXiv:2401.09417, as quoted by ViG",
    "LION": "arXiv:2502.16249",
    "timm": "github.com/huggingface/pytorch-image-models, results/results-imagenet.csv (top-1 of its default weights), "
    "results/benchmark-infer-amp-nchw-pt240-cu124-rtx4090.csv (…-pt291-cu128-4090.csv for models that it lacks)",
    "ViP": "Hou et al., arXiv:2106.12368, README of github.com/houqb/VisionPermutator; MACs as counted by "
    "github.com/BR-IDL/PaddleViT for its own ViP",
    "CAS-ViT": "Zhang et al., arXiv:2408.03703, MODEL_ZOO.md of github.com/Tianfang-Zhang/CAS-ViT, which has two "
    "accuracies per size (here the first); MACs as quoted by iFormer, arXiv:2501.15369",
    "CrossFormer++": "Wang et al., arXiv:2303.06908, README of github.com/cheerss/CrossFormer",
    "FasterViT": "Hatamizadeh et al., arXiv:2306.06189, README of github.com/NVlabs/FasterViT",
    "ViT-5": "Wang et al., arXiv:2602.08071, README of github.com/wangf3014/ViT-5",
}
"""Citations, by the name in the column `source`."""


@dataclass(frozen=True)
class Published:
    """One row; numbers as printed, empty if not published.

    Attributes:
        name: the publication's name of the model.
        model: an option of the group `model`, or timm's name; empty if there is no such model here.
        attention: an option of the group `attention`, or native; empty if there is none. Without `model` only its host
            does not exist here.
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
