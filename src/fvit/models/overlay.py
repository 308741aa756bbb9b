"""Pictures of where a model looks: a map laid over its image, a row a block and a column a head."""

from collections.abc import Sequence
from pathlib import Path

import torch
import torch.nn.functional as F
from PIL import Image, ImageDraw
from torch import Tensor

# Black, violet, red, yellow, white: lightness grows along it, so that it can be read without its colours.
_SCALE = torch.tensor([[0, 0, 20], [90, 20, 110], [205, 55, 70], [250, 170, 30], [255, 255, 220]]) / 255
_HEAT = 0.65  # share of the map in what is shown, that of the grey image is the rest
_LARGEST_TILE = 160  # pixels
_GAP, _MARGIN = 4, 60


def overlay(image: Tensor, weights: Tensor) -> Tensor:
    """An image with a map over it, uint8 [H, W, 3].

    Args:
        image: uint8 [H, W, 3].
        weights: [rows, columns], 0 or more. 0 is black, and white the largest, or twice the mean if that is more: even
            weights look even.
    """
    size = image.shape[:2]
    # To the size of the image, so that a patch's weight lies over the pixels of the patch, blurred into its neighbours.
    heat = F.interpolate(weights[None, None].float(), size, mode="bilinear", align_corners=False)[0, 0]
    white = torch.maximum(weights.amax(), 2 * weights.mean()).clamp(min=1e-30)
    place = (heat / white).clamp(0, 1) * (len(_SCALE) - 1)
    below = place.long().clamp(max=len(_SCALE) - 2)
    colours = torch.lerp(_SCALE[below], _SCALE[below + 1], (place - below).unsqueeze(-1))
    grey = image.float().mean(dim=-1, keepdim=True) / 255
    return (255 * (_HEAT * colours + (1 - _HEAT) * grey)).round().to(torch.uint8)


def draw(path: Path, image: Tensor, blocks: Sequence[tuple[int, Tensor]], title: str) -> None:
    """Write a picture, as its ending says; the arguments are those of `sheet`."""
    path.parent.mkdir(parents=True, exist_ok=True)
    partial = path.with_name(f".{path.name}")
    sheet(image, blocks, title).save(partial, format="PNG")
    partial.replace(path)


def sheet(image: Tensor, blocks: Sequence[tuple[int, Tensor]], title: str) -> Image.Image:
    """A picture of an image, and for each block of the mean over its heads and of each head.

    Args:
        image: uint8 [H, W, 3], as the model sees it.
        blocks: index of each block, and its maps [heads, rows, columns]. Of negative weights the size is shown.
        title: in its corner.
    """
    side = min(_LARGEST_TILE, max(96, *image.shape[:2]))
    height, width = (round(side * length / max(image.shape[:2])) for length in image.shape[:2])
    most = max(len(maps) for _, maps in blocks)
    columns = ["image", "mean", *(f"head {head}" for head in range(most))] if most > 1 else ["image", "all"]
    size = (_MARGIN + len(columns) * (width + _GAP), 2 * 16 + len(blocks) * (height + _GAP))
    drawn = Image.new("RGB", size, "white")
    pen = ImageDraw.Draw(drawn)
    pen.text((2, 2), title, "black")
    for index, name in enumerate(columns):
        pen.text((_MARGIN + index * (width + _GAP), 16), name, "black")
    for row, (block, maps) in enumerate(blocks):
        top = 2 * 16 + row * (height + _GAP)
        pen.text((2, top + height // 2 - 6), f"block {block}", "black")
        sizes = maps.abs()
        shown = [sizes.mean(dim=0), *sizes] if len(sizes) > 1 else [sizes[0]]
        tiles = [image, *(overlay(image, one) for one in shown)]
        for column, tile in enumerate(tiles):
            picture = Image.fromarray(tile.numpy()).resize((width, height), Image.Resampling.BICUBIC)
            drawn.paste(picture, (_MARGIN + column * (width + _GAP), top))
    return drawn
