"""gMLP: which half gates, what is normalised, and what is added where."""

from typing import ClassVar

import torch
import torch.nn.functional as F

from fvit.attention import GMLP

from ..refs import gmlp
from . import exhibit


class RightGMLP(GMLP):
    reference = staticmethod(gmlp.reference)
    options: ClassVar = ({}, {"mlp_ratio": 6})

    def forward(self, x, attn_mask=None):
        keep = 1 if attn_mask is None else attn_mask[:, 0].transpose(1, 2)
        u, v = self.halves(self.activate(self.uv(x)))
        return self.proj(self.gate(u, self.spatial.weight @ self.shown(self.normed(v), keep) + self.bias()))

    def activate(self, t):
        return F.gelu(t)

    def halves(self, t):
        return t.chunk(2, dim=-1)

    def normed(self, t):
        return self.norm(t)

    def shown(self, t, keep):
        return t * keep

    def bias(self):
        return self.spatial.bias[:, None]

    def gate(self, u, gate):
        return u * gate


@exhibit()
class GMLPWithItsHalvesExchanged(RightGMLP):
    def halves(self, t):
        return super().halves(t)[::-1]


@exhibit()
class GMLPWithInterleavedHalves(RightGMLP):
    def halves(self, t):
        return t[..., ::2], t[..., 1::2]


@exhibit()
class GMLPWithoutNorm(RightGMLP):
    def normed(self, t):
        return t


@exhibit()
class GMLPNormalisedOverTokens(RightGMLP):
    def normed(self, t):
        centred = t - t.mean(dim=1, keepdim=True)
        return centred / (centred.square().mean(dim=1, keepdim=True) + 1e-5).sqrt() * self.norm.weight + self.norm.bias


@exhibit()
class GMLPWithoutActivation(RightGMLP):
    def activate(self, t):
        return t


@exhibit()
class GMLPWithItsBiasOutsideTheGate(RightGMLP):
    def gate(self, u, gate):
        return u * (gate - self.bias()) + self.bias()


@exhibit()
class GMLPWithASigmoidGate(RightGMLP):
    def gate(self, u, gate):
        return u * gate.sigmoid()


@exhibit("mask")
class GMLPMasksBeforeItsNorm(RightGMLP):
    """A norm makes its own bias of a token that was zeroed."""

    def forward(self, x, attn_mask=None):
        return super().forward(x if attn_mask is None else x * attn_mask[:, 0].transpose(1, 2))


@exhibit("gradient")
class GMLPStopsTheGradientOfItsGate(RightGMLP):
    def gate(self, u, gate):
        return u * torch.detach(gate)
