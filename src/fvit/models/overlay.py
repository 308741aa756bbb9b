"""Pictures of attention maps: each map laid over its image, one row per block and one column per head."""

from collections.abc import Sequence
from pathlib import Path

import torch
import torch.nn.functional as F
from PIL import Image, ImageDraw
from torch import Tensor

# Black, violet, red, yellow, white: monotonic in lightness, so that it is legible without colour.
_COLOURS = torch.tensor([[0, 0, 20], [90, 20, 110], [205, 55, 70], [250, 170, 30], [255, 255, 220]]) / 255
_OPACITY = 0.65  # of the map over the grey image
_LARGEST_TILE = 160  # pixels
_GAP, _MARGIN = 4, 60


def overlay(image: Tensor, weights: Tensor) -> Tensor:
    """A map over its image, uint8 [H, W, 3].

    Args:
        image: uint8 [H, W, 3].
        weights: [rows, columns], not negative. 0 is black; white is the maximum, or twice the mean if that is larger,
            so that uniform weights look uniform.
    """
    size = image.shape[:2]
    heat = F.interpolate(weights[None, None].float(), size, mode="bilinear", align_corners=False)[0, 0]
    white = torch.maximum(weights.amax(), 2 * weights.mean()).clamp(min=1e-30)
    position = (heat / white).clamp(0, 1) * (len(_COLOURS) - 1)
    below = position.long().clamp(max=len(_COLOURS) - 2)
    colours = torch.lerp(_COLOURS[below], _COLOURS[below + 1], (position - below).unsqueeze(-1))
    grey = image.float().mean(dim=-1, keepdim=True) / 255
    return (255 * (_OPACITY * colours + (1 - _OPACITY) * grey)).round().to(torch.uint8)


def draw(path: Path, image: Tensor, blocks: Sequence[tuple[int, Tensor]], title: str) -> None:
    """Write a PNG; the other arguments are those of `sheet`."""
    path.parent.mkdir(parents=True, exist_ok=True)
    partial = path.with_name(f".{path.name}")
    sheet(image, blocks, title).save(partial, format="PNG")
    partial.replace(path)


def sheet(image: Tensor, blocks: Sequence[tuple[int, Tensor]], title: str) -> Image.Image:
    """A picture with one row per block: the image, the mean over heads, and each head.

    Args:
        image: uint8 [H, W, 3], as the model sees it.
        blocks: index of each block, and its maps [heads, rows, columns], shown by magnitude.
        title: text in the upper left corner.
    """
    side = min(_LARGEST_TILE, max(96, *image.shape[:2]))
    height, width = (round(side * length / max(image.shape[:2])) for length in image.shape[:2])
    heads = max(len(maps) for _, maps in blocks)
    columns = ["image", "mean", *(f"head {head}" for head in range(heads))] if heads > 1 else ["image", "all"]
    size = (_MARGIN + len(columns) * (width + _GAP), 2 * 16 + len(blocks) * (height + _GAP))
    picture = Image.new("RGB", size, "white")
    pen = ImageDraw.Draw(picture)
    pen.text((2, 2), title, "black")
    for index, name in enumerate(columns):
        pen.text((_MARGIN + index * (width + _GAP), 16), name, "black")
    for row, (block, maps) in enumerate(blocks):
        top = 2 * 16 + row * (height + _GAP)
        pen.text((2, top + height // 2 - 6), f"block {block}", "black")
        magnitudes = maps.abs()
        shown = [magnitudes.mean(dim=0), *magnitudes] if len(magnitudes) > 1 else [magnitudes[0]]
        tiles = [image, *(overlay(image, one) for one in shown)]
        for column, tile in enumerate(tiles):
            scaled = Image.fromarray(tile.numpy()).resize((width, height), Image.Resampling.BICUBIC)
            picture.paste(scaled, (_MARGIN + column * (width + _GAP), top))
    return picture
