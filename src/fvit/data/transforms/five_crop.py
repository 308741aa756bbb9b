"""Five crops of an image, for test-time augmentation."""

import random

import numpy as np
import torch
from torch import Tensor
from torchvision.transforms.v2.functional import five_crop

from fvit.data.transforms.image import EvalTransform


class FiveCrop(EvalTransform):
    """Resizes as `EvalTransform` does, and takes the four corners and the centre (Krizhevsky et al. 2012)."""

    def __call__(self, data: bytes | np.ndarray, rng: random.Random | None = None) -> Tensor:
        """Map an encoded image to uint8 [5 · H, W, 3], the crops below each other; `rng` is not used."""
        crops = five_crop(self.resized(data).permute(2, 0, 1), list(self.img_size))
        return torch.cat(crops, dim=1).permute(1, 2, 0).contiguous()
