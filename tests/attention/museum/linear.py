"""Linear attention: normalisers that are missing, or summed over the wrong axis."""

import torch.nn.functional as F

from fvit.attention import Linear

from ..refs import linear
from . import OnHeads, exhibit


class RightLinear(OnHeads, Linear):
    reference = staticmethod(linear.reference)

    def mix(self, q, k, v, keep):
        q, k = self.feature(q), self.feature(k)
        return q @ ((k * keep).transpose(-2, -1) @ v) / self.normaliser(q, k, keep)

    def feature(self, t):
        return F.elu(t) + 1

    def normaliser(self, q, k, keep):
        return q @ (k * keep).sum(dim=-2).unsqueeze(-1)


@exhibit()
class LinearWithoutNormaliser(RightLinear):
    def normaliser(self, q, k, keep):
        return 1


@exhibit()
class LinearNormalisedByTheNumberOfTokens(RightLinear):
    def normaliser(self, q, k, keep):
        return k.shape[-2]


@exhibit()
class LinearNormalisedOverChannels(RightLinear):
    def normaliser(self, q, k, keep):
        return (q * k.sum(dim=-1, keepdim=True)).sum(dim=-1, keepdim=True)


@exhibit()
class LinearNormalisedWithoutTheQuery(RightLinear):
    def normaliser(self, q, k, keep):
        return k.sum(dim=(-2, -1), keepdim=True)


@exhibit()
class LinearOfEluAlone(RightLinear):
    def feature(self, t):
        return F.elu(t)


@exhibit("mask")
class LinearMasksItsNumeratorAlone(RightLinear):
    def normaliser(self, q, k, keep):
        return q @ k.sum(dim=-2).unsqueeze(-1)


@exhibit("gradient")
class LinearStopsTheGradientOfItsNormaliser(RightLinear):
    def normaliser(self, q, k, keep):
        return super().normaliser(q, k, keep).detach()
