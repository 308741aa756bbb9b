"""Cost of an index of 1.28 million images: time to the first batch, memory per worker, growth over epochs.

    python benchmarks/index.py

The 1,024 shards of 1,250 images are one shard of 50 images, linked 1,024 times, whose images the index repeats. Memory
is a worker's own (Private in Linux's smaps_rollup), without what it shares with its parent.
"""

import io
import os
import tarfile
import tempfile
import time
import zlib
from pathlib import Path

import numpy as np
import torch
from PIL import Image

from fvit.data import SOURCES, ImageDataModule, Source
from fvit.data.formats.tar import TarImages, load_entries
from fvit.data.formats.webdataset import ENTRY
from fvit.data.storage.base import LocalStorage

SHARDS, EACH, DISTINCT = 1024, 1250, 50
EPOCHS, BATCHES, BATCH, WORKERS = 10, 40, 64, 2


def main() -> None:
    """Measure and print."""
    torch.set_num_threads(1)
    with tempfile.TemporaryDirectory() as scratch:
        storage, index = make_shards(Path(scratch))
        started = time.perf_counter()
        counts = np.full(SHARDS, EACH)
        images = TarImages(storage, storage.files([".tar"]), counts, load_entries(index))
        SOURCES["synthetic"] = lambda: Source(images, images, [str(label) for label in range(1000)])
        augment = {"transform": {"no_aug": False}}
        data = ImageDataModule("synthetic", img_size=224, batch_size=BATCH, num_workers=WORKERS, augment=augment)
        loader = data.train_dataloader()
        batches = iter(loader)
        next(batches)
        print(f"{len(images):,} images; first batch after {time.perf_counter() - started:.2f} s")
        workers = [process.pid for process in batches._workers]
        for epoch in range(EPOCHS):
            loader.sampler.set_epoch(epoch)
            batches = iter(loader)
            for _ in range(BATCHES):
                next(batches)
            own = ", ".join(f"{private(pid) / 2**20:.0f} MiB" for pid in workers)
            print(f"epoch {epoch + 1}: {own} per worker")


def make_shards(folder: Path) -> tuple[LocalStorage, Path]:
    """Write the shards and their index."""
    rng = np.random.default_rng(0)
    entries = np.zeros(DISTINCT, dtype=ENTRY)
    first = folder / "train-0000.tar"
    with tarfile.open(first, "w") as archive:
        for number in range(DISTINCT):
            coarse = Image.fromarray(rng.integers(0, 256, (19, 25, 3), dtype=np.uint8))
            encoded = io.BytesIO()
            coarse.resize((500, 375), Image.Resampling.BICUBIC).save(encoded, "JPEG", quality=95)
            member = tarfile.TarInfo(f"{number:04d}.jpg")
            member.size = len(encoded.getvalue())
            entries[number]["offset"] = archive.offset + tarfile.BLOCKSIZE
            entries[number]["size"] = member.size
            archive.addfile(member, io.BytesIO(encoded.getvalue()))
    data = first.read_bytes()
    for entry in entries:
        start, size = int(entry["offset"]), int(entry["size"])
        entry["crc"] = zlib.crc32(data[start : start + size])
    for number in range(1, SHARDS):
        os.link(first, folder / f"train-{number:04d}.tar")
    whole = np.tile(entries, SHARDS * EACH // DISTINCT)
    whole["label"] = rng.integers(0, 1000, len(whole))
    np.save(folder / "index.npy", whole)
    return LocalStorage(folder), folder / "index.npy"


def private(pid: int) -> int:
    """Bytes of memory that a process does not share."""
    lines = Path(f"/proc/{pid}/smaps_rollup").read_text().splitlines()
    return sum(int(line.split()[1]) * 1024 for line in lines if line.startswith(("Private_Clean", "Private_Dirty")))


if __name__ == "__main__":
    main()
