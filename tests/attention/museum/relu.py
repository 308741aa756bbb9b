"""ReLU attention: its division by the number of tokens."""

from fvit.attention import Relu

from ..refs import relu
from . import OnHeads, exhibit


class RightRelu(OnHeads, Relu):
    reference = staticmethod(relu.reference)

    def mix(self, q, k, v, keep):
        weights = (q @ k.transpose(-2, -1) * self.head_dim**-0.5).relu()
        return (weights * keep.transpose(-2, -1)) @ v / self.divisor(weights, keep.sum(dim=2, keepdim=True))

    def divisor(self, weights, tokens):
        return tokens


@exhibit()
class ReluWithoutDivision(RightRelu):
    def divisor(self, weights, tokens):
        return 1


@exhibit()
class ReluDividedBySumOfWeights(RightRelu):
    def divisor(self, weights, tokens):
        return weights.sum(dim=-1, keepdim=True) + 1e-6


@exhibit("mask")
class ReluCountsHiddenTokens(RightRelu):
    def divisor(self, weights, tokens):
        return weights.shape[-1]
