"""Cross-covariance attention: lengths over tokens, a map between channels."""

import torch.nn.functional as F

from fvit.attention import Xca

from ..refs import xca
from . import OnHeads, exhibit


class RightXca(OnHeads, Xca):
    reference = staticmethod(xca.reference)

    def mix(self, q, k, v, keep):
        q, k = self.unit(q * keep), self.unit(k * keep)
        weights = self.normalise(self.tempered(q.transpose(-2, -1) @ k))
        return v @ weights.transpose(-2, -1)

    def unit(self, t):
        return F.normalize(t, dim=-2)

    def tempered(self, logits):
        return logits * self.temperature[:, None, None]

    def normalise(self, logits):
        return logits.softmax(dim=-1)


@exhibit()
class XcaWithLengthsOverChannels(RightXca):
    def unit(self, t):
        return F.normalize(t, dim=-1)


@exhibit()
class XcaWithoutLengths(RightXca):
    def unit(self, t):
        return t


@exhibit()
class XcaWithTheScaleOfSoftmax(RightXca):
    def tempered(self, logits):
        return logits * self.head_dim**-0.5


@exhibit()
class XcaSoftmaxOverTheOtherChannels(RightXca):
    def normalise(self, logits):
        return logits.softmax(dim=-2)
