"""GFNet: transforms that do not undo each other, and a filter over something else than the grid."""

from typing import ClassVar

import torch

from fvit.attention import GFNet

from ..refs import gfnet
from . import exhibit


class RightGFNet(GFNet):
    reference = staticmethod(gfnet.reference)
    options: ClassVar = ({},)
    lies: ClassVar = ((3, 4), 1, 0)

    def forward(self, x, attn_mask=None):
        keep = torch.ones(len(x), x.shape[1], 1) > 0 if attn_mask is None else attn_mask[:, 0].mT
        image = (x * keep)[:, 1:].unflatten(1, (3, 4))
        filtered = self.backward_transform(self.forward_transform(image) * self.kernel())
        return torch.cat([torch.zeros_like(x[:, :1]), filtered.flatten(1, 2)], dim=1)

    def kernel(self):
        return torch.complex(self.filter[..., 0], self.filter[..., 1])

    def forward_transform(self, image):
        return torch.fft.rfft2(image, dim=(1, 2))

    def backward_transform(self, frequencies):
        return torch.fft.irfft2(frequencies, s=(3, 4), dim=(1, 2))


@exhibit()
class GFNetScalesOneTransformAlone(RightGFNet):
    def forward_transform(self, image):
        return torch.fft.rfft2(image, dim=(1, 2), norm="ortho")


@exhibit()
class GFNetTransformsRowsAndChannels(RightGFNet):
    def forward_transform(self, image):
        return torch.fft.fft(torch.fft.rfft(image, dim=2), dim=3)


@exhibit()
class GFNetWithARealFilter(RightGFNet):
    def kernel(self):
        return self.filter[..., 0]


@exhibit()
class GFNetCorrelates(RightGFNet):
    def kernel(self):
        return super().kernel().conj()
