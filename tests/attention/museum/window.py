"""Shifted windows: what the roll brings together, cells that are no patches, and the bias's distances."""

from typing import ClassVar

import torch

from fvit.attention import Window

from ..refs import window
from . import OnHeads, exhibit


class RightWindow(OnHeads, Window):
    """By a mask between all pairs. A grid of 4×5 has windows of 3×3 in rows −2…0, 1…3, 4…6 and columns the like."""

    reference = staticmethod(window.reference)
    options: ClassVar = ({"window": 3, "position_bias": True},)
    lies: ClassVar = ((4, 5), 1, 1)

    def mix(self, q, k, v, keep):
        row, column = (t.flatten() for t in torch.meshgrid(torch.arange(4), torch.arange(5), indexing="ij"))
        number = 10 * self.windows_of(row, 4) + self.windows_of(column, 5)
        seen = torch.ones(21, 21, dtype=torch.bool)
        seen[1:] = self.seen_by_patches(number[:, None] == number)
        down, right = self.clip(row[:, None] - row + 2), self.clip(column[:, None] - column + 2)
        logits = self.scaled(q @ k.mT)
        logits[:, :, 1:, 1:] += self.position_bias[:, down, right]
        logits = logits.masked_fill(~(seen & keep.mT), float("-inf"))
        return torch.nan_to_num(logits.softmax(dim=-1)) @ v

    def windows_of(self, place, size):
        return (place - 1) // 3

    def seen_by_patches(self, same):
        return torch.cat([torch.zeros(20, 1, dtype=torch.bool), same], dim=1)

    def clip(self, distance):
        """Distances beyond a window are of no use."""
        return distance.clamp(0, 4)

    def scaled(self, logits):
        return logits * self.head_dim**-0.5


@exhibit()
class WindowThatNeverShifts(RightWindow):
    def windows_of(self, place, size):
        return place // 3


@exhibit()
class WindowShiftsTheOtherWay(RightWindow):
    def windows_of(self, place, size):
        return (place + 1) // 3


@exhibit()
class WindowJoinsWhatTheRollBringsTogether(RightWindow):
    def windows_of(self, place, size):
        return (place - 1) % 6 // 3


@exhibit()
class WindowShowsPrefixTokensToPatches(RightWindow):
    def seen_by_patches(self, same):
        return torch.cat([torch.ones(20, 1, dtype=torch.bool), same], dim=1)


@exhibit()
class WindowTakesTheBiasTheOtherWayRound(RightWindow):
    def clip(self, distance):
        return 4 - super().clip(distance)


@exhibit()
class WindowWithoutScale(RightWindow):
    def scaled(self, logits):
        return logits
