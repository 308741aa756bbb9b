"""Sources to prepare, and the resulting files."""

from contextlib import contextmanager
from pathlib import Path

import numpy as np

from fvit.data.images import Images, Pixels
from fvit.data.prepare.write import Settings, write
from fvit.data.sources import Source
from tests.data.tars import noise

CLASSES = ["ant", "bee", "cow"]


class Encoded(Images):
    """JPEGs in memory, of which those in `bad` are damaged."""

    def __init__(self, count: int, first: int = 0, bad: tuple[int, ...] = ()) -> None:
        self.labels = (np.arange(count) % len(CLASSES)).astype(np.int32)
        self.first, self.bad = first, bad

    def read(self, index: int) -> bytes:
        data = noise(self.first + index)
        return data[: len(data) // 2] if index in self.bad else data

    def locate(self, index: int) -> str:
        return f"/somewhere/{CLASSES[index % 3]}/img_{self.first + index}.v1.JPEG"


def source(train=23, val=7, bad=()) -> Source:
    return Source(Encoded(train, 0, bad), Encoded(val, 1000), CLASSES)


def pixels() -> Source:
    made = np.random.default_rng(0).integers(256, size=(9, 8, 8), dtype=np.uint8)
    return Source(Pixels(made[:6], np.arange(6) % 3), Pixels(made[6:], np.arange(3)), CLASSES)


def settings(resize=20, quality=80, shard_size=5) -> Settings:
    return Settings({"name": "memory", "root": "x"}, resize, quality, shard_size)


@contextmanager
def silent(total, done):
    yield lambda count: None


def prepared(out: Path, images: Source | None = None, workers=0, skip_bad=True, progress=silent, **options):
    return write(images or source(), out, settings(**options), workers, skip_bad, progress)


def contents(folder: Path) -> dict[str, bytes]:
    return {path.relative_to(folder).as_posix(): path.read_bytes() for path in folder.rglob("*") if path.is_file()}
