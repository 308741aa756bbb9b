"""Checking a folder of shards against its manifest."""

import hashlib
import os
import zlib
from collections.abc import Generator
from functools import partial
from pathlib import Path

import numpy as np

from fvit.data import pool
from fvit.data.formats import manifest
from fvit.data.formats.tar import load_entries
from fvit.data.formats.webdataset import scan
from fvit.data.images import DataError
from fvit.data.prepare.write import Progress
from fvit.data.storage.base import LocalStorage


def verify(folder: Path, workers: int, progress: Progress) -> tuple[list[str], int]:
    """One line for each file that is missing, damaged or unexpected, and the number of files in the manifest.

    Compares the size and SHA-256 of every file, and the members of each shard with the index: offset, size, label and
    CRC-32.
    """
    storage = LocalStorage(folder)
    path = folder / manifest.NAME
    if not path.is_file():
        if (folder / ".progress").is_dir():
            raise DataError(f"{folder} is incomplete: run the fvit-prepare command that started it again, to resume it")
        raise DataError(f"{folder} has no {manifest.NAME}, which fvit-prepare writes, so its content is unknown")
    content = manifest.parse(path.read_bytes(), str(path))
    files = content.files()
    problems: list[str] = []
    tasks = []
    for split in content.splits.values():
        index = folder / split.index.name
        if problem := _file_problem(folder, split.index):
            problems.append(f"{split.index.name}: {problem}")
            index = None
        ends = np.cumsum([shard.images for shard in split.shards]).tolist()
        tasks += [(shard, index, end - shard.images) for shard, end in zip(split.shards, ends, strict=True)]
    with progress(len(files), len(content.splits)) as advance:
        for found in pool.run(partial(_check_shard, folder), tasks, workers, advance):
            problems += found
    known = {file.name for file in files} | {manifest.NAME}
    problems += [f"{file.name}: not in the manifest" for file in storage.files([""]) if file.name not in known]
    return problems, len(files)


def _check_shard(folder: Path, task: tuple[manifest.Shard, Path | None, int]) -> Generator[int, None, list[str]]:
    problem = _shard_problem(folder, *task)
    yield 1
    return [f"{task[0].name}: {problem}"] if problem else []


def _shard_problem(folder: Path, shard: manifest.Shard, index: Path | None, start: int) -> str | None:
    """Compare a shard with the manifest, and with the entries of the index from `start`, if the index is intact."""
    problem = _file_problem(folder, shard)
    if index is None or (problem and not problem.startswith("changed")):
        return problem
    path = folder / shard.name
    entries = load_entries(index)[start:][: shard.images]
    if problem:
        return f"{problem}; {_count_damaged(path, entries)} of its {len(entries)} images are damaged"
    try:
        members = scan(path, path.name)["entries"]
    except DataError as error:
        return str(error)
    if not all(np.array_equal(members[field], entries[field]) for field in ("offset", "size", "label")):
        return "its content does not match the index"
    damaged = _count_damaged(path, entries)
    return f"the checksums of {damaged} of its images do not match the index" if damaged else None


def _file_problem(folder: Path, file: manifest.FileEntry) -> str | None:
    path = folder / file.name
    if not path.is_file():
        return "missing"
    size = path.stat().st_size
    if size != file.size:
        return f"{'truncated' if size < file.size else 'too long'}, {size:,} bytes instead of {file.size:,}"
    with path.open("rb") as content:
        digest = hashlib.file_digest(content, "sha256").hexdigest()
    return None if digest == file.sha256 else f"changed, its sha256 is {digest} instead of {file.sha256}"


def _count_damaged(path: Path, entries: np.ndarray) -> int:
    with path.open("rb") as file:
        return sum(
            zlib.crc32(os.pread(file.fileno(), size, offset)) != crc for offset, size, _, crc in entries.tolist()
        )
