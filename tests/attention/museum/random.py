"""Random mixing: its normalisation."""

from typing import ClassVar

from fvit.attention import Random

from ..refs import random
from . import exhibit


class RightRandom(Random):
    reference = staticmethod(random.reference)
    options: ClassVar = ({},)

    def forward(self, x, attn_mask=None):
        keep = 1 if attn_mask is None else attn_mask[:, 0]
        return self.normalise(self.weights(), keep) @ x

    def weights(self):
        return self.logits.exp()

    def normalise(self, weights, keep):
        return weights * keep / (weights * keep).sum(dim=-1, keepdim=True)


@exhibit()
class RandomWithoutSoftmax(RightRandom):
    def weights(self):
        return self.logits


@exhibit()
class RandomNormalisedOverTheWrongTokens(RightRandom):
    def normalise(self, weights, keep):
        return weights * keep / weights.sum(dim=-2, keepdim=True)


@exhibit()
class RandomTransposed(RightRandom):
    def weights(self):
        return super().weights().T


@exhibit("mask")
class RandomNormalisedBeforeItsMask(RightRandom):
    def normalise(self, weights, keep):
        return weights * keep / weights.sum(dim=-1, keepdim=True)
