"""Whether a folder of prepared shards is still what its manifest says."""

import hashlib
import os
import zlib
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from fvit.data import pool
from fvit.data.formats import manifest
from fvit.data.formats.scan import scan
from fvit.data.formats.tar import load_index
from fvit.data.images import DataError
from fvit.data.prepare.write import Progress
from fvit.data.storage.base import LocalStorage


def verify(folder: Path, workers: int, progress: Progress) -> tuple[list[str], int]:
    """What is wrong, a line a file, and how many files there should be.

    Sizes and SHA-256 of all files are compared; members of the shards are compared with the index, by place, label and
    CRC-32; and files that the manifest does not name are wrong as well.

    Args:
        folder: of shards.
        workers: processes; 0 is this one.
        progress: counts files.

    Raises:
        DataError: there is no manifest, or it is damaged.
    """
    place = LocalStorage(folder)
    path = folder / manifest.NAME
    if not path.is_file():
        unfinished = (folder / ".progress").is_dir()
        raise DataError(
            f"{folder} holds a preparation that has not ended; start it again, and it goes on"
            if unfinished
            else f"{folder} has no {manifest.NAME}, so nothing says what should be in it; was it made by fvit-prepare?"
        )
    content = manifest.read(path)
    files = content.files()
    indices = {split.index.name: _index_problems(folder, split) for split in content.by_split().values()}
    tasks = []
    for split in content.by_split().values():
        sound = not indices[split.index.name]
        ends = np.cumsum([shard.images for shard in split.shards]).tolist()
        for shard, end in zip(split.shards, ends, strict=True):
            tasks.append(_Task(shard, folder / split.index.name if sound else None, end - shard.images))
    with progress(len(files), len(indices)) as advance:
        found = pool.run(_Check(folder), tasks, workers, advance)
    known = {file.name for file in files} | {manifest.NAME}
    extra = [
        f"{file.name}: extra, the manifest does not name it" for file in place.files([""]) if file.name not in known
    ]
    lines = [line for some in (*indices.values(), *found) for line in some]
    return lines + extra, len(files)


@dataclass(frozen=True)
class _Task:
    """A shard, the index where it is sound, and the shard's first image in it."""

    shard: manifest.Shard
    index: Path | None
    start: int


@dataclass(frozen=True)
class _Check:
    folder: Path

    def __call__(self, task: _Task, advance: pool.Advance) -> list[str]:
        problems = self._problems(task)
        advance(1)
        return [f"{task.shard.name}: {problem}" for problem in problems]

    def _problems(self, task: _Task) -> list[str]:
        problems = _file_problems(self.folder, task.shard)
        if task.index is None or (problems and not problems[0].startswith("changed")):
            return problems
        path = self.folder / task.shard.name
        entries = load_index(task.index)[task.start :][: task.shard.images]
        if problems:
            damaged = _damaged(path, entries)
            return [f"{problems[0]}; {damaged} of its {len(entries)} images are damaged"]
        try:
            members = scan(path, path.name)
        except DataError as error:
            return [str(error)]
        if not all(np.array_equal(members[field], entries[field]) for field in ("offset", "size", "label")):
            return ["the index does not say what is in it"]
        damaged = _damaged(path, entries)
        return [f"{damaged} of its images have other checksums in the index"] if damaged else []


def _index_problems(folder: Path, split: manifest.Split) -> list[str]:
    problems = _file_problems(folder, split.index)
    if not problems:
        try:
            entries = load_index(folder / split.index.name)
        except DataError as error:
            problems = [str(error)]
        else:
            if np.bincount(np.maximum(entries["label"], 0), minlength=len(split.per_class)).tolist() != split.per_class:
                problems = ["its images a class are not those of the manifest"]
    return [f"{split.index.name}: {problem}" for problem in problems]


def _file_problems(folder: Path, file: manifest.FileEntry) -> list[str]:
    path = folder / file.name
    if not path.is_file():
        return ["missing"]
    size = path.stat().st_size
    if size != file.size:
        how = "truncated" if size < file.size else "too long"
        return [f"{how}, it has {size:,} bytes of {file.size:,}"]
    with path.open("rb") as content:
        digest = hashlib.file_digest(content, "sha256").hexdigest()
    return [] if digest == file.sha256 else [f"changed, its sha256 is {digest} and should be {file.sha256}"]


def _damaged(path: Path, entries: np.ndarray) -> int:
    """How many images have another checksum than the index."""
    with path.open("rb") as file:
        return sum(
            zlib.crc32(os.pread(file.fileno(), size, offset)) != crc
            for offset, size, _, crc in map(tuple, entries.tolist())
        )
