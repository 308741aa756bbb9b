import numpy as np
import pytest
import torch
from PIL import Image

from fvit.models.overlay import draw, overlay


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
    sheet = torch.from_numpy(np.array(Image.open(path).convert("L")))
    assert sheet.shape == (32 + 2 * 100, 60 + 4 * 100)

    def brightest(row, column):
        top, left = 32 + 100 * row, 60 + 100 * column
        tile = sheet[top : top + 96, left : left + 96]
        y, x = divmod(int(tile.float().argmax()), 96)
        return y // 24, x // 24

    assert sheet[32:128, 60:156].max() == 0, "the image itself"
    assert brightest(0, 2) == (0, 0)
    assert brightest(0, 3) == (3, 3)
    assert brightest(1, 1) == brightest(1, 2) == brightest(1, 3) == (0, 3)
    assert [one.name for one in path.parent.iterdir()] == ["a.png"]
