"""Tar shards for tests."""

import io
import tarfile
from pathlib import Path

import numpy as np
from PIL import Image


def jpeg(level: int, size=(12, 10), mode="RGB") -> bytes:
    buffer = io.BytesIO()
    Image.new("L", size, level).convert(mode).save(buffer, "JPEG")
    return buffer.getvalue()


def noise(seed: int, size=(40, 30)) -> bytes:
    """A JPEG that differs with the seed."""
    buffer = io.BytesIO()
    pixels = np.random.default_rng(seed).integers(256, size=(size[1], size[0], 3), dtype=np.uint8)
    Image.fromarray(pixels).save(buffer, "JPEG")
    return buffer.getvalue()


def write_tar(path: Path, members, format=tarfile.PAX_FORMAT) -> Path:
    """Write members, each (name, bytes) or a TarInfo."""
    path.parent.mkdir(parents=True, exist_ok=True)
    with tarfile.open(path, "w", format=format) as tar:
        for member in members:
            if isinstance(member, tarfile.TarInfo):
                tar.addfile(member)
            else:
                name, content = member
                info = tarfile.TarInfo(name)
                info.size = len(content)
                tar.addfile(info, io.BytesIO(content))
    return path


def sample(key: str, label: int, image: bytes | None = None):
    """The members of one image: KEY.jpg and KEY.cls."""
    return [(f"{key}.jpg", jpeg(label % 256) if image is None else image), (f"{key}.cls", str(label).encode())]


def write_set(root: Path, train=((0, 1), (2, 0)), val=((0, 1, 2),)) -> Path:
    """Shards named as in `timm/imagenet-1k-wds`, given the labels in each; every image is different."""
    seed = 0
    for split, shards in (("train", train), ("validation", val)):
        for number, labels in enumerate(shards):
            members = []
            for position, label in enumerate(labels):
                seed += 1
                members += sample(f"{split}_{number}_{position}", label, noise(seed))
            write_tar(root / f"set-{split}-{number:04d}.tar", members)
    return root


def flip(path: Path, offset: int) -> None:
    """Invert one byte."""
    content = bytearray(path.read_bytes())
    content[offset] ^= 0xFF
    path.write_bytes(content)
