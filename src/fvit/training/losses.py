"""Losses by name, each for labels [B] and for probabilities [B, classes] as mixup makes them."""

from typing import Any

from timm.loss import BinaryCrossEntropy
from torch import nn

_LOSSES: dict[str, type[nn.Module]] = {"cross_entropy": nn.CrossEntropyLoss, "bce": BinaryCrossEntropy}


def build_loss(name: str, **options: Any) -> nn.Module:
    """`cross_entropy` (torch.nn.CrossEntropyLoss) or `bce` (timm.loss.BinaryCrossEntropy), with their own options.

    Raises:
        ValueError: unknown name.
    """
    if name not in _LOSSES:
        raise ValueError(f"unknown loss '{name}'; known: {', '.join(_LOSSES)}")
    return _LOSSES[name](**options)
