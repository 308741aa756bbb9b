"""Pictures of attention maps: each map laid over its image, one row per block and one column per head."""

from collections.abc import Sequence
from functools import cache
from pathlib import Path

import torch
import torch.nn.functional as F
from PIL import Image, ImageDraw, ImageFont
from torch import Tensor

# Black, violet, red, yellow, white: monotonic in lightness, so that it is legible without colour.
_COLOURS = torch.tensor([[0, 0, 20], [90, 20, 110], [205, 55, 70], [250, 170, 30], [255, 255, 220]]) / 255
_OPACITY = 0.65  # of the map over the grey image
# In pixels.
_LARGEST_TILE = 160
_GAP, _MARGIN = 6, 76
_TITLE, _TEXT = 17, 14  # sizes of the font
_LINE = 22
_BAR = (180, 14)


def overlay(image: Tensor, weights: Tensor) -> Tensor:
    """A map over its image, uint8 [H, W, 3].

    Args:
        image: uint8 [H, W, 3].
        weights: [rows, columns], not negative. 0 is black; white is the maximum, or twice the mean if that is larger,
            so that uniform weights look uniform.
    """
    size = image.shape[:2]
    heat = F.interpolate(weights[None, None].float(), size, mode="bilinear", align_corners=False)[0, 0]
    return _coloured(heat / white_level(weights), image.float().mean(dim=-1, keepdim=True) / 255)


def white_level(weights: Tensor) -> Tensor:
    """The weight that is white."""
    return torch.maximum(weights.amax(), 2 * weights.mean()).clamp(min=1e-30)


def draw(path: Path, image: Tensor, blocks: Sequence[tuple[int, Tensor]], *lines: str) -> None:
    """Write a PNG; the other arguments are those of `sheet`."""
    path.parent.mkdir(parents=True, exist_ok=True)
    partial = path.with_name(f".{path.name}")
    sheet(image, blocks, *lines).save(partial, format="PNG")
    partial.replace(path)


def sheet(image: Tensor, blocks: Sequence[tuple[int, Tensor]], *lines: str) -> Image.Image:
    """A picture with one row per block: the image, the mean over heads, and each head; below them the colour bar.

    Each map has its own scale; the weight that is white stands below it.

    Args:
        image: uint8 [H, W, 3], as the model sees it.
        blocks: index of each block, and its maps [heads, rows, columns], shown by magnitude.
        lines: of text above the maps, the first of them larger: a title, the predicted class.
    """
    side = min(_LARGEST_TILE, max(96, *image.shape[:2]))
    height, width = (round(side * length / max(image.shape[:2])) for length in image.shape[:2])
    heads = max(len(maps) for _, maps in blocks)
    columns = ["image", "mean", *(f"head {head}" for head in range(heads))] if heads > 1 else ["image", "map"]
    top, row_height = (len(lines) + 1) * _LINE, height + _LINE
    bar_top = top + len(blocks) * row_height + _GAP
    right = max(_MARGIN + len(columns) * (width + _GAP), *(round(_font(_TITLE).getlength(one)) for one in lines), 440)
    picture = Image.new("RGB", (right + _GAP, bar_top + _BAR[1] + _LINE), "white")
    pen = ImageDraw.Draw(picture)

    def write(x: int, y: int, text: str, size: int = _TEXT, colour: str = "black") -> None:
        pen.text((x, y), text, colour, font=_font(size))

    for number, line in enumerate(lines):
        write(_GAP, number * _LINE + 2, line, _TEXT if number else _TITLE)
    for column, name in enumerate(columns):
        write(_MARGIN + column * (width + _GAP), top - _LINE + 4, name)
    for row, (block, maps) in enumerate(blocks):
        y = top + row * row_height
        write(_GAP, y + height // 2 - _TEXT // 2, f"block {block}")
        magnitudes = maps.abs()
        shown = [magnitudes.mean(dim=0), *magnitudes] if len(magnitudes) > 1 else [magnitudes[0]]
        tiles = [image, *(overlay(image, one) for one in shown)]
        for column, tile in enumerate(tiles):
            x = _MARGIN + column * (width + _GAP)
            scaled = Image.fromarray(tile.numpy()).resize((width, height), Image.Resampling.BICUBIC)
            picture.paste(scaled, (x, y))
            if column:
                write(x, y + height + 1, f"white = {white_level(shown[column - 1]):.2g}", colour="#555")
    scale = torch.linspace(0, 1, _BAR[0]).expand(_BAR[1], -1)
    picture.paste(Image.fromarray(_coloured(scale, torch.tensor(0.5)).numpy()), (_MARGIN, bar_top))
    write(_MARGIN - 14, bar_top - 2, "0")
    write(_MARGIN + _BAR[0] + _GAP, bar_top - 2, "white, as below each map")
    return picture


def _coloured(scale: Tensor, grey: Tensor) -> Tensor:
    """The colours of [H, W] from 0 to 1, over grey [H, W, 1] or a number, uint8 [H, W, 3]."""
    position = scale.clamp(0, 1) * (len(_COLOURS) - 1)
    below = position.long().clamp(max=len(_COLOURS) - 2)
    colours = torch.lerp(_COLOURS[below], _COLOURS[below + 1], (position - below).unsqueeze(-1))
    return (255 * (_OPACITY * colours + (1 - _OPACITY) * grey)).round().to(torch.uint8)


@cache
def _font(size: int) -> ImageFont.FreeTypeFont:
    return ImageFont.load_default(size)
