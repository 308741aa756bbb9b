"""Test-time augmentation: predictions averaged over several views of each image."""

import math

import torch
from torch import Tensor, nn

VIEWS = {"flip": (1, True), "5crop": (5, False), "10crop": (5, True)}
"""Crops of each image, and whether they are mirrored as well, by the name of the augmentation."""


class AveragedViews(nn.Module):
    """The logarithm of the mean probabilities of all views of an image, which takes the place of its logits.

    Args:
        model: maps images [B, 3, H, W] to logits [B, outputs].
        crops: per image, which lie below each other: images are [B, 3, crops · H, W].
        flip: whether the mirrored crops are views as well.
    """

    def __init__(self, model: nn.Module, crops: int, flip: bool) -> None:
        super().__init__()
        self.model, self.crops, self.flip = model, crops, flip

    def forward(self, images: Tensor) -> Tensor:
        """Normalised images [B, 3, crops · H, W] to log-probabilities [B, outputs]."""
        views = images.unflatten(2, (self.crops, -1)).transpose(1, 2).flatten(0, 1)
        if self.flip:
            views = torch.cat([views, views.flip(-1)])
        logits = self.model(views).float()
        by_image = logits.log_softmax(dim=1).unflatten(0, (-1, len(images), self.crops))
        return by_image.logsumexp(dim=(0, 2)) - math.log(len(views) / len(images))
