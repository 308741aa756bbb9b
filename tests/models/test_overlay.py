import numpy as np
import pytest
import torch
from PIL import Image

from fvit.models.overlay import draw, overlay, sheet


def lightness(pixels):
    return pixels.float().mean(dim=-1)


@pytest.mark.parametrize("place", [(0, 0), (1, 4), (0, 3)])
@pytest.mark.parametrize("level", [0, 128, 255])
def test_largest_weight_is_the_lightest_patch(place, level):
    weights = torch.full((2, 5), 0.05)
    weights[place] = 0.5
    image = torch.full((16, 40, 3), level, dtype=torch.uint8)
    light = lightness(overlay(image, weights)).unfold(0, 8, 8).unfold(1, 8, 8).mean(dim=(2, 3))
    assert divmod(int(light.argmax()), 5) == place


def test_uniform_weights_look_uniform_and_zeros_look_dark():
    image = torch.zeros(16, 16, 3, dtype=torch.uint8)
    even, none = overlay(image, torch.full((4, 4), 0.01)), overlay(image, torch.zeros(4, 4))
    assert (even.flatten(0, 1).int().amax(dim=0) - even.flatten(0, 1).int().amin(dim=0)).max() <= 1
    assert lightness(none).max() < lightness(even).min() < 128


def test_sheet_has_one_row_per_block_and_one_column_per_head(tmp_path):
    image = torch.zeros(96, 96, 3, dtype=torch.uint8)
    maps = torch.zeros(2, 2, 4, 4)
    maps[0, 0, 0, 0] = maps[0, 1, 3, 3] = 1  # block 4: head 0 at the upper left, head 1 at the lower right
    maps[1, :, 0, 3] = -1  # block 7: upper right, negative
    path = tmp_path / "deep" / "a.png"
    draw(path, image, [(4, maps[0]), (7, maps[1])], "a title")
    drawn = torch.from_numpy(np.array(Image.open(path).convert("L")))
    assert drawn.shape == (44 + 2 * 118 + 42, 76 + 4 * 102 + 6)

    def brightest(row, column):
        top, left = 44 + 118 * row, 76 + 102 * column
        tile = drawn[top : top + 96, left : left + 96]
        y, x = divmod(int(tile.float().argmax()), 96)
        return y // 24, x // 24

    assert drawn[44:140, 76:172].max() == 0, "the image itself"
    assert brightest(0, 2) == (0, 0)
    assert brightest(0, 3) == (3, 3)
    assert brightest(1, 1) == brightest(1, 2) == brightest(1, 3) == (0, 3)
    assert [one.name for one in path.parent.iterdir()] == ["a.png"]

    bar = drawn[286:300, 76:256].float()
    assert (bar[0].diff() >= 0).all(), "from dark to white"
    assert bar[0, -1] > 2 * bar[0, 0]


def test_the_weight_that_is_white_stands_below_each_map_and_lines_above(monkeypatch):
    written = []
    monkeypatch.setattr(
        "PIL.ImageDraw.ImageDraw.text", lambda pen, place, text, *_, font: written.append((text, font.size))
    )
    maps = torch.zeros(2, 4, 4)
    maps[0, 0, 0], maps[1] = 0.5, 0.125
    picture = sheet(torch.zeros(8, 8, 3, dtype=torch.uint8), [(4, maps)], "x" * 99, "predicted: 7, 98.2 %")
    texts = [text for text, _ in written]
    assert texts[:2] == ["x" * 99, "predicted: 7, 98.2 %"]
    assert [text for text in texts if "= " in text] == ["white = 0.31", "white = 0.5", "white = 0.25"]
    assert {"block 4", "image", "mean", "head 0", "head 1", "0"} <= set(texts)
    assert min(size for _, size in written) >= 14
    assert picture.width > 700, "a long title is not cut"
