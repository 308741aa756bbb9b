"""MLP-Mixer's token mixing: its activation, and what it does with hidden tokens."""

from typing import ClassVar

import torch.nn.functional as F

from fvit.attention import Mixer

from ..refs import mixer
from . import exhibit


class RightMixer(Mixer):
    reference = staticmethod(mixer.reference)
    options: ClassVar = ({},)

    def forward(self, x, attn_mask=None):
        keep = 1 if attn_mask is None else attn_mask[:, 0].transpose(1, 2)
        hidden = self.activate(self.fc1.weight @ self.shown(x, keep) + self.fc1.bias[:, None])
        return self.fc2.weight @ hidden + self.fc2.bias[:, None]

    def activate(self, t):
        return F.gelu(t)

    def shown(self, x, keep):
        return x * keep


@exhibit()
class MixerWithoutActivation(RightMixer):
    def activate(self, t):
        return t


@exhibit()
class MixerWithReLU(RightMixer):
    def activate(self, t):
        return F.relu(t)


@exhibit()
class MixerWithItsOwnResidual(RightMixer):
    def forward(self, x, attn_mask=None):
        return x + super().forward(x, attn_mask)


@exhibit("mask")
class MixerIgnoresItsMask(RightMixer):
    def shown(self, x, keep):
        return x


@exhibit("gradient")
class MixerStopsTheGradientOfItsTokens(RightMixer):
    def shown(self, x, keep):
        return super().shown(x, keep).detach() + 0 * x
