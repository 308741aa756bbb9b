"""Polarity-aware linear attention: how signs meet, and what each half is divided by."""

import torch

from fvit.attention import Pola

from ..refs import pola
from . import OnHeads, exhibit


class RightPola(OnHeads, Pola):
    reference = staticmethod(pola.reference)

    def forward(self, x, attn_mask=None):
        self.gates = self.split_heads(self.gate(x))
        return super().forward(x, attn_mask)

    def mix(self, q, k, v, keep):
        power = 1 + self.alpha * self.power_of_channels().sigmoid()
        plus, minus = (self.positive(t) ** power for t in (q, -q))
        keys = torch.cat([self.positive(t) ** power for t in (k, -k)], dim=-1) * keep
        same, opposite = torch.cat([plus, minus], dim=-1), self.opposite(plus, minus)
        halves = (self.average(t, keys, half) for t, half in zip((same, opposite), v.chunk(2, dim=-1), strict=True))
        return torch.cat(list(halves), dim=-1) * self.gates

    def power_of_channels(self):
        return self.power

    def positive(self, t):
        return t.relu()

    def opposite(self, plus, minus):
        return torch.cat([minus, plus], dim=-1)

    def average(self, q, k, v):
        return q @ (k.mT @ v) / (q @ k.sum(dim=-2).unsqueeze(-1))


@exhibit()
class PolaOfEqualSignsTwice(RightPola):
    def opposite(self, plus, minus):
        return torch.cat([plus, minus], dim=-1)


@exhibit()
class PolaWithoutNormaliser(RightPola):
    def average(self, q, k, v):
        return q @ (k.mT @ v) / k.shape[-2]


@exhibit()
class PolaPowersWithoutSigns(RightPola):
    def positive(self, t):
        return t.abs()


@exhibit("gradient")
class PolaStopsTheGradientOfItsKeys(RightPola):
    def average(self, q, k, v):
        return super().average(q, k.detach(), v)
