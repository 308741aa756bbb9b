"""Losses: by name for labels, and against the logits or tokens of a teacher.

Source of the teacher's: soft logits from Hinton et al., arXiv:1503.02531; hard ones, and both in a ViT, from Touvron et
al. (DeiT), arXiv:2012.12877, equations 2 and 3.
"""

from typing import Any, Literal

import torch
import torch.nn.functional as F
from timm.loss import BinaryCrossEntropy
from torch import Tensor, nn

_LOSSES: dict[str, type[nn.Module]] = {"cross_entropy": nn.CrossEntropyLoss, "bce": BinaryCrossEntropy}


def build_loss(name: str, **options: Any) -> nn.Module:
    """`cross_entropy` (torch.nn.CrossEntropyLoss) or `bce` (timm.loss.BinaryCrossEntropy), with their own options.

    Both take labels [B] and the probabilities [B, classes] of mixup.

    Raises:
        ValueError: unknown name.
    """
    if name not in _LOSSES:
        raise ValueError(f"unknown loss '{name}'; known: {', '.join(_LOSSES)}")
    return _LOSSES[name](**options)


def soft_loss(student: Tensor, teacher: Tensor, temperature: float) -> Tensor:
    """τ² KL(softmax(teacher / τ) ‖ softmax(student / τ)), averaged over images, of logits [B, classes].

    DeiT's equation 2; its released code also divides by the number of classes.
    """
    student, teacher = (F.log_softmax(_widened(logits) / temperature, dim=1) for logits in (student, teacher))
    return temperature**2 * F.kl_div(student, teacher, reduction="batchmean", log_target=True)


def hard_loss(student: Tensor, teacher: Tensor) -> Tensor:
    """Cross-entropy with the teacher's argmax, averaged over images, of logits [B, classes]."""
    return F.cross_entropy(_widened(student), teacher.argmax(dim=1))


def token_loss(student: Tensor, teacher: Tensor, distance: Literal["mse", "cosine"]) -> Tensor:
    """Mean squared error, or 1 - cosine similarity averaged over tokens, of tokens [B, N, C]."""
    if student.shape != teacher.shape:
        raise ValueError(f"the student's tokens {list(student.shape)} and the teacher's {list(teacher.shape)} differ")
    student, teacher = _widened(student), _widened(teacher)
    if distance == "mse":
        return F.mse_loss(student, teacher)
    return (1 - F.cosine_similarity(student, teacher, dim=-1)).mean()


def _widened(tensor: Tensor) -> Tensor:
    """In float32 if the precision is lower."""
    return tensor.to(torch.promote_types(tensor.dtype, torch.float32))
