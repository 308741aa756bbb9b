"""Pictures whose label only follows from how their parts relate: what a mixing of tokens can do at all.

Sixteen cells of 8×8 px, one patch each, hold scikit-learn's handwritten digits on black. No single cell tells the
label, and neither does the set of cells: a model that does not mix its tokens stays near chance.

* ``pointer``: ten different digits, one of them red. Which digit is on its right? Chance is 1 in 10.
* ``lookup``: six different digits, each in one of eight colours, all different; the first cell repeats one of the
  digits in grey. Which colour has that digit? Chance is 1 in 6 for a model that sees which colours are there.
"""

from typing import Literal

import numpy as np

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
    num_images: int = 20_000,
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
        chosen, cells, colours, labels = place(rng, count)
        pool = known.val if split and glyphs == "varied" else known.train
        drawn = _draw(chosen, pool, rng if glyphs == "varied" else None)
        # [images, digits shown, 8, 8, 3], each into its cell.
        grid = np.zeros((count, _CELLS, 8, 8, 3), dtype=np.uint8)
        grid[np.arange(count)[:, None], cells] = (drawn[..., None] * colours[:, :, None, None]).round()
        rows = grid.reshape(count, _SIDE, _SIDE, 8, 8, 3).transpose(0, 1, 3, 2, 4, 5)
        sets.append(Pixels(rows.reshape(count, _SIDE * 8, _SIDE * 8, 3), labels))
    classes = list(COLOURS) if task == "lookup" else known.classes
    return Source(*sets, classes=classes)


def _pointer(rng: np.random.Generator, count: int) -> tuple[np.ndarray, ...]:
    """Digits [count, 16], their cells, their colours [count, 16, 3] and the labels."""
    image = np.arange(count)
    chosen = rng.integers(10, size=(count, _CELLS))
    red = rng.integers(_SIDE, size=count) * _SIDE + rng.integers(_SIDE - 1, size=count)
    colours = np.ones((count, _CELLS, 3), dtype=np.float32)
    colours[image, red] = COLOURS["red"]
    return chosen, np.tile(np.arange(_CELLS), (count, 1)), colours, chosen[image, red + 1]


def _lookup(rng: np.random.Generator, count: int) -> tuple[np.ndarray, ...]:
    """As `_pointer`, for six digits, and a seventh in the first cell that repeats one of them."""
    chosen = _permutations(rng, count, 10)[:, :6]
    names = _permutations(rng, count, len(COLOURS))[:, :6]
    asked = rng.integers(6, size=count)
    image = np.arange(count)
    cells = 1 + _permutations(rng, count, _CELLS - 1)[:, :6]
    colours = np.array(list(COLOURS.values()), dtype=np.float32)[names]
    grey = np.full((count, 1, 3), 0.5, dtype=np.float32)
    return (
        np.column_stack([chosen, chosen[image, asked]]),
        np.column_stack([cells, np.zeros(count, dtype=int)]),
        np.concatenate([colours, grey], axis=1),
        names[image, asked],
    )


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
