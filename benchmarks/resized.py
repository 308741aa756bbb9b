"""Size and quality of shards with smaller images: bytes, and the difference in the pixels that a model sees.

    python benchmarks/resized.py --images DIR      # a folder of JPEGs, at any depth

Each image is resized as in fvit-prepare (shorter side, bicubic, quality 90). Then, original and result go through the
transforms of evaluation and training, with the same crops. Reported are the bytes relative to the original, and the
peak signal-to-noise ratio in dB, averaged over images.
"""

import argparse
import random
import statistics
from pathlib import Path

import numpy as np
from rich.console import Console
from rich.table import Table

from fvit.data.formats.decode import choose
from fvit.data.prepare.shard import Encoding, encode
from fvit.data.transforms.image import EvalTransform, resize

SIZES = (None, 512, 320, 256)
SIDE_PIXELS = 224


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--images", type=Path, required=True)
    parser.add_argument("--quality", type=int, default=90)
    options = parser.parse_args()
    originals = [path.read_bytes() for path in sorted(options.images.rglob("*.JPEG"))]
    decoder = choose()
    views = {
        "evaluation 256/224": EvalTransform(decoder, 224, 224 / 256),
        "evaluation 438/384": EvalTransform(decoder, 384, 384 / 438),
        "training crops to 224": crops,
    }
    table = Table("shorter side", "bytes", *views)
    for size in SIZES:
        prepared = [encode(data, Encoding(decoder, size, options.quality))[0] for data in originals]
        share = sum(map(len, prepared)) / sum(map(len, originals))
        ratios = [
            statistics.mean(
                psnr(np.asarray(view(before)), np.asarray(view(after)))
                for before, after in zip(originals, prepared, strict=True)
            )
            for view in views.values()
        ]
        table.add_row(str(size or "unchanged"), f"{100 * share:.0f} %", *(f"{ratio:.1f} dB" for ratio in ratios))
    Console(width=120).print(table)


def crops(data: bytes) -> np.ndarray:
    """Four crops of random position and size, relative to the size of the image."""
    pixels = choose()(data)
    height, width = pixels.shape[:2]
    rng = random.Random(0)
    views = []
    for _ in range(4):
        share = rng.uniform(0.08, 1.0) ** 0.5
        top, left = rng.uniform(0, 1 - share), rng.uniform(0, 1 - share)
        rows = slice(round(top * height), round((top + share) * height))
        columns = slice(round(left * width), round((left + share) * width))
        views.append(resize(pixels[rows, columns], SIDE_PIXELS, SIDE_PIXELS, "bicubic"))
    return np.stack(views)


def psnr(before: np.ndarray, after: np.ndarray) -> float:
    """In dB; 60 for identical images."""
    error = np.mean((before.astype(np.float64) - after) ** 2)
    return min(60.0, 10 * np.log10(255**2 / error)) if error else 60.0


if __name__ == "__main__":
    main()
