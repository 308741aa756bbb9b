"""Pictures whose label only follows from how their parts relate: what a mixing of tokens can do at all.

Sixteen cells of 8×8 px, one patch each, hold scikit-learn's handwritten digits on black. No single cell tells the
label. A model that does not mix its tokens can only count what is there, and guess: 1 in 4 is right in both tasks.

* ``pointer``: random digits, one of them red. Which digit is on its right?
* ``lookup``: four digits, each in a colour of its own, fill 15 cells at random; the first cell has one of them in grey.
  Which colour has that digit?
"""

from typing import Literal

import numpy as np
from pydantic import PositiveInt

from fvit.data.images import Pixels
from fvit.data.sources.base import Source
from fvit.data.sources.builtin import digits

_SIDE = 4
_CELLS = _SIDE**2
COLOURS = {
    "red": (1, 0, 0),
    "green": (0, 1, 0),
    "blue": (0, 0, 1),
    "yellow": (1, 1, 0),
    "magenta": (1, 0, 1),
    "cyan": (0, 1, 1),
    "orange": (1, 0.5, 0),
    "white": (1, 1, 1),
}


def relations(
    task: Literal["pointer", "lookup"] = "pointer",
    num_images: PositiveInt = 20_000,
    glyphs: Literal["fixed", "varied"] = "fixed",
) -> Source:
    """Pictures of 32×32 px, made from digits; a tenth as many for validation.

    Args:
        task: what the label asks for.
        num_images: size of the training set.
        glyphs: ``fixed``, one picture per digit; or ``varied``, handwriting, with other writers' in validation.
    """
    known = digits()
    place = {"pointer": _pointer, "lookup": _lookup}[task]
    sets = []
    for split, count in enumerate((num_images, max(1, num_images // 10))):
        rng = np.random.default_rng((split, count))
        chosen, colours, labels = place(rng, count)
        pool = known.val if split and glyphs == "varied" else known.train
        drawn = _draw(chosen, pool, rng if glyphs == "varied" else None)
        # [images, cells, 8, 8, 3]
        grid = (drawn[..., None] * colours[:, :, None, None]).round().astype(np.uint8)
        rows = grid.reshape(count, _SIDE, _SIDE, 8, 8, 3).transpose(0, 1, 3, 2, 4, 5)
        sets.append(Pixels(rows.reshape(count, _SIDE * 8, _SIDE * 8, 3), labels))
    classes = list(COLOURS) if task == "lookup" else known.classes
    return Source(*sets, classes=classes)


def _pointer(rng: np.random.Generator, count: int) -> tuple[np.ndarray, ...]:
    """Digits [count, 16], their colours [count, 16, 3], and the labels [count]."""
    image = np.arange(count)
    chosen = rng.integers(10, size=(count, _CELLS))
    red = rng.integers(_SIDE, size=count) * _SIDE + rng.integers(_SIDE - 1, size=count)
    colours = np.ones((count, _CELLS, 3), dtype=np.float32)
    colours[image, red] = COLOURS["red"]
    return chosen, colours, chosen[image, red + 1]


def _lookup(rng: np.random.Generator, count: int) -> tuple[np.ndarray, ...]:
    """As `_pointer`; the first cell asks for the colour of its digit."""
    image = np.arange(count)
    digits_of, colours_of = _permutations(rng, count, 10)[:, :4], _permutations(rng, count, len(COLOURS))[:, :4]
    # Each of the four at least once.
    which = np.concatenate([np.tile(np.arange(4), (count, 1)), rng.integers(4, size=(count, _CELLS - 5))], axis=1)
    which = np.take_along_axis(which, _permutations(rng, count, _CELLS - 1), axis=1)
    which = np.column_stack([rng.integers(4, size=count), which])
    colours = np.array(list(COLOURS.values()), dtype=np.float32)[np.take_along_axis(colours_of, which, axis=1)]
    colours[:, 0] = 0.5
    return np.take_along_axis(digits_of, which, axis=1), colours, colours_of[image, which[:, 0]]


def _permutations(rng: np.random.Generator, count: int, size: int) -> np.ndarray:
    return rng.random((count, size)).argsort(axis=1)


def _draw(chosen: np.ndarray, pool: Pixels, rng: np.random.Generator | None) -> np.ndarray:
    """A picture of each digit [..., 8, 8]: the first of the pool, or a random one."""
    drawn = np.empty((*chosen.shape, 8, 8), dtype=np.uint8)
    for digit in range(10):
        pictures = pool.pixels[pool.labels == digit]
        here = chosen == digit
        drawn[here] = pictures[rng.integers(len(pictures), size=here.sum())] if rng else pictures[0]
    return drawn
