"""Numbers in sentences."""

from collections.abc import Sequence


def count(number: int, noun: str, plural: str | None = None) -> str:
    """``1 image``, ``2,000 images``; `plural` where it is not the noun with an s."""
    return f"{number:,} {noun if number == 1 else plural or noun + 's'}"


def pixels(img_size: int | Sequence[int]) -> str:
    """``224 px`` for squares, ``384 × 128 px`` for height and width."""
    height, width = (img_size, img_size) if isinstance(img_size, int) else img_size
    return f"{height} px" if height == width else f"{height} × {width} px"
