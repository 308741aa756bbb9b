"""Permute-MLP: permutations that are not undone, and a softmax over something else than the branches."""

from typing import ClassVar

import torch

from fvit.attention import PermuteMlp

from ..refs import permute_mlp
from . import exhibit


class RightPermuteMlp(PermuteMlp):
    reference = staticmethod(permute_mlp.reference)
    options: ClassVar = ({"segments": 6},)
    lies: ClassVar = ((3, 4), 1, 0)

    def forward(self, x, attn_mask=None):
        keep = torch.ones(len(x), x.shape[1], 1) > 0 if attn_mask is None else attn_mask[:, 0].mT
        image, keep = ((t[:, 1:]).unflatten(1, (3, 4)) for t in (x * keep, keep))
        branches = torch.stack([self.height(image), self.width(image), self.mlp_c(image)], dim=-1)
        mean = (branches.sum(dim=-1) * keep).sum(dim=(1, 2)) / self.number(keep)
        weights = self.normalise(self.cut(self.reweight(mean)))[:, None, None]
        out = self.proj((branches * weights).sum(dim=-1))
        return torch.cat([torch.zeros_like(x[:, :1]), out.flatten(1, 2)], dim=1)

    def height(self, image):
        """[B, rows, columns, C] as one vector of rows · 4 for each column and segment of 4 channels, and back."""
        lines = image.unflatten(-1, (6, 4)).permute(0, 2, 3, 1, 4)
        return self.mlp_h(lines.flatten(3)).unflatten(-1, (3, 4)).permute(0, 3, 1, 2, 4).flatten(3)

    def width(self, image):
        lines = image.unflatten(-1, (6, 4)).permute(0, 1, 3, 2, 4)
        return self.mlp_w(lines.flatten(3)).unflatten(-1, (4, 4)).permute(0, 1, 3, 2, 4).flatten(3)

    def number(self, keep):
        return keep.sum(dim=(1, 2))

    def cut(self, weights):
        return weights.unflatten(-1, (24, 3))

    def normalise(self, weights):
        return weights.softmax(dim=-1)


@exhibit()
class PermuteMlpSegmentsAcrossChannels(RightPermuteMlp):
    def width(self, image):
        lines = image.unflatten(-1, (4, 6)).permute(0, 1, 4, 2, 3)
        return self.mlp_w(lines.flatten(3)).unflatten(-1, (4, 4)).permute(0, 1, 3, 4, 2).flatten(3)


@exhibit()
class PermuteMlpDoesNotPermuteBack(RightPermuteMlp):
    def height(self, image):
        lines = image.unflatten(-1, (6, 4)).permute(0, 2, 3, 1, 4)
        return self.mlp_h(lines.flatten(3)).reshape(image.shape)


@exhibit()
class PermuteMlpSoftmaxOverChannels(RightPermuteMlp):
    def normalise(self, weights):
        return weights.softmax(dim=-2)


@exhibit()
class PermuteMlpWithoutWeights(RightPermuteMlp):
    def normalise(self, weights):
        return torch.ones_like(weights)


@exhibit("mask")
class PermuteMlpCountsHiddenPatches(RightPermuteMlp):
    def number(self, keep):
        return 12
