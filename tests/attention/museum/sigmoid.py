"""Sigmoid attention: its bias -ln N."""

import torch

from fvit.attention import Sigmoid

from ..refs import sigmoid
from . import OnHeads, exhibit


class RightSigmoid(OnHeads, Sigmoid):
    reference = staticmethod(sigmoid.reference)

    def mix(self, q, k, v, keep):
        logits = q @ k.transpose(-2, -1) * self.head_dim**-0.5 + self.bias(keep.double())
        return (torch.sigmoid(logits) * keep.transpose(-2, -1)) @ v

    def bias(self, keep):
        return -keep.sum(dim=2, keepdim=True).log()


@exhibit()
class SigmoidWithoutBias(RightSigmoid):
    def bias(self, keep):
        return 0


@exhibit()
class SigmoidWithItsBiasTheOtherWay(RightSigmoid):
    def bias(self, keep):
        return -super().bias(keep)


@exhibit("mask")
class SigmoidCountsHiddenTokens(RightSigmoid):
    def bias(self, keep):
        return super().bias(torch.ones_like(keep))
