import numpy as np
import pytest

from fvit.data.sources import load
from fvit.data.sources.builtin import digits
from fvit.data.sources.relations import COLOURS


def cells_of(image):
    return image.reshape(4, 8, 4, 8, 3).transpose(0, 2, 1, 3, 4).reshape(16, 8, 8, 3)


def digit_in(cell, pictures):
    """The digit that a cell shows in any colour, or None."""
    shape = cell.max(axis=2) / max(1, cell.max())
    distance = {digit: np.abs(shape - picture / picture.max()).max() for digit, picture in pictures.items()}
    found = min(distance, key=distance.get)
    return found if distance[found] < 0.02 else None


@pytest.fixture(scope="module")
def pictures():
    train = digits().train
    return {digit: train.pixels[train.labels == digit][0] for digit in range(10)}


def test_the_pointed_digit_is_right_of_the_red_one(pictures):
    source = load("relations", num_images=200)
    assert (len(source.train), len(source.val)) == (200, 20)
    for images in (source.train, source.val):
        for index in range(20):
            cells = cells_of(images.read(index))
            [red] = [n for n, cell in enumerate(cells) if cell[..., 0].any() and not cell[..., 1:].any()]
            assert red % 4 < 3
            assert digit_in(cells[red + 1], pictures) == images.labels[index]
            assert None not in [digit_in(cell, pictures) for cell in cells]


def test_the_colour_is_that_of_the_grey_digit(pictures):
    source = load("relations", task="lookup", num_images=200)
    assert source.classes == list(COLOURS)
    for index in range(20):
        first, *others = cells_of(source.train.read(index))
        colours = {}
        for cell in others:
            colour = (cell.reshape(-1, 3).max(axis=0) / cell.max()).round(1)
            colours.setdefault(digit_in(cell, pictures), set()).add(tuple(colour))
        assert len(colours) == 4
        assert None not in colours
        assert all(len(found) == 1 for found in colours.values())
        assert len(set.union(*colours.values())) == 4
        [colour] = colours[digit_in(first, pictures)]
        assert colour == pytest.approx(COLOURS[source.classes[source.train.labels[index]]], abs=0.1)


def test_labels_are_spread_and_images_do_not_repeat():
    for task in ("pointer", "lookup"):
        source = load("relations", task=task, num_images=2000, glyphs="varied")
        counts = np.bincount(source.train.labels, minlength=len(source.classes))
        assert counts.min() > 0.7 * counts.mean()
        assert len({image.tobytes() for image in (*source.train.pixels, *source.val.pixels)}) == 2200
