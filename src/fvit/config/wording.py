"""Numbers in sentences."""


def count(number: int, noun: str, plural: str | None = None) -> str:
    """``1 image``, ``2,000 images``; `plural` where it is not the noun with an s."""
    return f"{number:,} {noun if number == 1 else plural or noun + 's'}"
