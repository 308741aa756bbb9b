"""CATM: its two gates, what they multiply, and the mean that one of them takes."""

from typing import ClassVar

import torch
import torch.nn.functional as F

from fvit.attention import Catm

from ..refs import catm
from . import exhibit


class RightCatm(Catm):
    reference = staticmethod(catm.reference)
    options: ClassVar = ({},)
    lies: ClassVar = ((2, 3), 1, 0)

    def forward(self, x, attn_mask=None):
        self.keep = torch.ones(len(x), x.shape[1], 1) > 0 if attn_mask is None else attn_mask[:, 0].mT
        q, k, v = self.qkv(x).chunk(3, dim=-1)
        context = self.join(self.phi(0, q), self.phi(1, k))
        return self.near(self.out_conv, self.near(self.sum_conv, context) * v)

    def phi(self, which, t):
        return self.channels(which, self.tokens(which, t))

    def tokens(self, which, t):
        return t * self.spatial_gate[which](F.relu(self.near(self.spatial_conv[which], t))).sigmoid()

    def channels(self, which, t):
        return t * self.channel_gate[which](self.mean(t)).sigmoid()

    def mean(self, t):
        return (t * self.keep).sum(dim=1, keepdim=True) / self.keep.sum(dim=1, keepdim=True)

    def join(self, q, k):
        return q + k

    def near(self, conv, t):
        t = t * self.keep
        patches = conv(t[:, 1:].mT.unflatten(2, (2, 3))).flatten(2).mT
        return torch.cat([t[:, :1], patches], dim=1)


@exhibit()
class CatmMultipliesQueryAndKey(RightCatm):
    def join(self, q, k):
        return q * k


@exhibit()
class CatmGatesChannelsFirst(RightCatm):
    def phi(self, which, t):
        return self.tokens(which, self.channels(which, t))


@exhibit()
class CatmGivesItsGateForItsOutput(RightCatm):
    def channels(self, which, t):
        return self.channel_gate[which](self.mean(t)).sigmoid().expand_as(t)


@exhibit("mask")
class CatmAveragesHiddenTokens(RightCatm):
    def mean(self, t):
        return t.mean(dim=1, keepdim=True)
