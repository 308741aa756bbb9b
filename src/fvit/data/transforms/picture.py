"""One picture as the input of a model."""

from collections.abc import Sequence
from pathlib import Path

import numpy as np
import torch
from PIL import Image
from torch import Tensor

from fvit.data.dataset import Batch
from fvit.data.formats import decode
from fvit.data.formats.pillow import to_rgb
from fvit.data.formats.torch_dataset import is_image
from fvit.data.transforms.batch import BatchTransform
from fvit.data.transforms.image import EvalTransform


class PictureTransform:
    """Resizes, crops and normalises a picture as validation does.

    Args:
        img_size, crop_pct, interpolation, mean, std, crop_mode: as in `fvit.data.ImageDataModule`.
    """

    def __init__(
        self,
        img_size: int | Sequence[int],
        crop_pct: float,
        interpolation: str,
        mean: Sequence[float],
        std: Sequence[float],
        crop_mode: str = "center",
    ) -> None:
        self._resize = EvalTransform(decode.choose(), img_size, crop_pct, interpolation, crop_mode)
        self._normalise = BatchTransform(0, mean, std, {}, {}, seed=0)

    def __call__(self, picture: str | Path | bytes | Image.Image | np.ndarray) -> Tensor:
        """float32 [3, H, W] of a file, an encoded image, a PIL image, or pixels uint8 [H, W] or [H, W, 3].

        Raises:
            BadImage: it is damaged.
            TypeError: it is something else.
        """
        if isinstance(picture, str | Path):
            picture = Path(picture).expanduser().read_bytes()
        if not is_image(picture):
            kind = f"{type(picture)} {getattr(picture, 'dtype', '')} {list(getattr(picture, 'shape', ()))}"
            raise TypeError(f"a picture is a path, bytes, a PIL image or a uint8 array [height, width, 3], not {kind}")
        if isinstance(picture, Image.Image):
            picture = np.asarray(to_rgb(picture))
        index = torch.zeros(1, dtype=torch.int64)
        images, _ = self._normalise(Batch(self._resize(picture)[None], index, index, index, ()), False, torch.float32)
        return images[0]
