"""MILA's linear attention: where its rotary positions belong."""

from typing import ClassVar

import torch
import torch.nn.functional as F

from fvit.attention import Mlla

from ..refs import mlla
from . import OnHeads, exhibit


class RightMlla(OnHeads, Mlla):
    reference = staticmethod(mlla.reference)
    lies: ClassVar = ((3, 4), 1, 0)

    def mix(self, q, k, v, keep):
        q, k = F.elu(q) + 1, (F.elu(k) + 1) * keep
        turned_q, turned_k = self.turn(q), self.turn(k)
        return turned_q @ (turned_k.mT @ v) / self.normaliser(q, k, turned_q, turned_k)

    def normaliser(self, q, k, turned_q, turned_k):
        return q @ k.sum(dim=-2).unsqueeze(-1)

    def turn(self, t):
        pairs = torch.view_as_complex(self.merge_heads(t).unflatten(-1, (-1, 2)).contiguous())
        angles = torch.cat([pairs.real.new_zeros(1, self.dim // 2), self.angles().flatten(0, 1)])
        return self.split_heads(torch.view_as_real(pairs * torch.polar(torch.ones_like(angles), angles)).flatten(-2))

    def angles(self):
        """[rows, columns, C / 2]."""
        speeds = 10000 ** (-torch.arange(6).double() / 6)
        rows, columns = torch.meshgrid(torch.arange(3), torch.arange(4), indexing="ij")
        return torch.cat([rows[..., None] * speeds, columns[..., None] * speeds], dim=-1)


@exhibit()
class MllaTurnsItsDenominator(RightMlla):
    def normaliser(self, q, k, turned_q, turned_k):
        return turned_q @ turned_k.sum(dim=-2).unsqueeze(-1)


@exhibit()
class MllaSwapsRowsAndColumns(RightMlla):
    def angles(self):
        return super().angles().roll(self.dim // 4, dims=-1)


@exhibit()
class MllaTurnsAlongOneSequence(RightMlla):
    def angles(self):
        speeds = 10000 ** (-torch.arange(12).double() / 12)
        return torch.arange(12).view(3, 4, 1) * speeds


@exhibit()
class MllaTurnsBeforeItsFeatures(RightMlla):
    def mix(self, q, k, v, keep):
        turned_q, turned_k = F.elu(self.turn(q)) + 1, (F.elu(self.turn(k)) + 1) * keep
        q, k = F.elu(q) + 1, (F.elu(k) + 1) * keep
        return turned_q @ (turned_k.mT @ v) / self.normaliser(q, k, turned_q, turned_k)
