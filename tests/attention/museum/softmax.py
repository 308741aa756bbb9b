"""Softmax attention: wrong scales, wrong axes, masks that do not mask."""

from fvit.attention import Softmax

from ..refs import softmax
from . import OnHeads, exhibit


class RightSoftmax(OnHeads, Softmax):
    reference = staticmethod(softmax.reference)

    def mix(self, q, k, v, keep):
        return self.normalise(self.masked(self.scaled(q @ k.transpose(-2, -1)), keep.transpose(-2, -1))) @ v

    def scaled(self, logits):
        return logits * self.head_dim**-0.5

    def masked(self, logits, keep):
        return logits.masked_fill(~keep, float("-inf"))

    def normalise(self, logits):
        return logits.softmax(dim=-1)


@exhibit()
class SoftmaxWithoutScale(RightSoftmax):
    def scaled(self, logits):
        return logits


@exhibit()
class SoftmaxScaledByTheWholeWidth(RightSoftmax):
    def scaled(self, logits):
        return logits * self.dim**-0.5


@exhibit()
class SoftmaxScaledWithoutRoot(RightSoftmax):
    def scaled(self, logits):
        return logits / self.head_dim


@exhibit()
class SoftmaxOverQueries(RightSoftmax):
    def normalise(self, logits):
        return logits.softmax(dim=-2)


@exhibit()
class SoftmaxOverHeads(RightSoftmax):
    def normalise(self, logits):
        return logits.softmax(dim=1)


@exhibit()
class SoftmaxWithHeadsCutAcrossTokens(RightSoftmax):
    def split(self, rows):
        return rows.reshape(len(rows), self.num_heads, -1, self.head_dim)


@exhibit("mask")
class SoftmaxIgnoresItsMask(RightSoftmax):
    def masked(self, logits, keep):
        return logits


@exhibit("mask")
class SoftmaxZeroesMaskedLogits(RightSoftmax):
    def masked(self, logits, keep):
        return logits * keep


@exhibit("gradient")
class SoftmaxStopsTheGradientOfItsMap(RightSoftmax):
    def normalise(self, logits):
        return logits.softmax(dim=-1).detach()
