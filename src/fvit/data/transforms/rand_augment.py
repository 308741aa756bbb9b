"""timm's augmentations on PIL images, one of them mended and four of them faster."""

from collections.abc import Callable
from typing import Any

from PIL import Image, ImageOps
from timm.data.auto_augment import NAME_TO_OP

from fvit.data.transforms.affine import transform_columns, transform_rows

Replacement = Callable[[Image.Image, float, tuple[int, ...]], Image.Image]


def posterize(image: Image.Image, bits_to_keep: int, **options: object) -> Image.Image:
    """Keep the highest bits of each channel; none of them leaves black.

    timm 1.0.31 asks Pillow for 0 bits at RandAugment's largest magnitude, which Pillow 13 refuses: rand-m9-mstd0.5
    would end within the first thousand images. Older Pillows return black.
    """
    if bits_to_keep < 1:
        return Image.new(image.mode, image.size)
    return image if bits_to_keep >= 8 else ImageOps.posterize(image, bits_to_keep)


_ORIGINALS = dict(NAME_TO_OP)
_FASTER: dict[str, Replacement] = {
    "ShearX": lambda image, slope, fill: transform_rows(image, slope, 0.0, fill),
    "ShearY": lambda image, slope, fill: transform_columns(image, slope, 0.0, fill),
    "TranslateX": lambda image, pixels, fill: transform_rows(image, 0.0, pixels, fill),
    "TranslateY": lambda image, pixels, fill: transform_columns(image, 0.0, pixels, fill),
    "TranslateXRel": lambda image, share, fill: transform_rows(image, 0.0, share * image.width, fill),
    "TranslateYRel": lambda image, share, fill: transform_columns(image, 0.0, share * image.height, fill),
}


class Faster:
    """timm's operation of that name: by our own way where that gives the same image, which is bicubic and of RGB.

    An object and no closure: a loader's worker may have to be sent it.
    """

    def __init__(self, name: str) -> None:
        self.name = name

    def __call__(self, image: Image.Image, magnitude: float, **options: Any) -> Image.Image:
        """The transformed image."""
        if options.get("resample") != Image.Resampling.BICUBIC or image.mode != "RGB" or "fillcolor" not in options:
            return _ORIGINALS[self.name](image, magnitude, **options)
        return _FASTER[self.name](image, magnitude, options["fillcolor"])


def install() -> None:
    """Put them into timm's table of operations."""
    NAME_TO_OP.update({name: posterize for name in NAME_TO_OP if name.startswith("Posterize")})
    NAME_TO_OP.update({name: Faster(name) for name in _FASTER})
