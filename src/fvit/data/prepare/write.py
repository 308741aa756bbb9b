"""Writing a source to tar shards with an index and a manifest, resumable at any point."""

import hashlib
import json
import shutil
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager
from functools import partial
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from filelock import FileLock, Timeout

from fvit.data import pool
from fvit.data.formats import decode, manifest
from fvit.data.formats.webdataset import ENTRY
from fvit.data.images import DataError, Images
from fvit.data.prepare.shard import Encoding, ShardTask, read_record, write_shard
from fvit.data.sources import Source
from fvit.data.storage.base import PARTIAL, replacing

Progress = Callable[[int, int], AbstractContextManager[pool.Advance]]
"""Opens a progress bar, given the total amount of work and how much of it is already done."""

# The training images are shuffled once, with this seed.
_SEED = 0
_SHARDS_MIXED = 8
_LOCK_SECONDS = 10.0


class Settings(NamedTuple):
    """What the written bytes depend on; see `Encoding`."""

    source: dict[str, Any]  # name and options, without credentials
    resize: int | None
    quality: int
    shard_size: int  # images per shard


def write(
    source: Source, out: Path, settings: Settings, workers: int, skip_bad: bool, progress: Progress
) -> tuple[manifest.Manifest, int | None]:
    """Write `source` to `out` as WebDataset shards, with an index per split and, at the end, manifest.json.

    Training images are shuffled once, with a fixed seed, so each shard contains many classes; validation images keep
    their order. Files are written atomically. If interrupted, the same call resumes with the missing shards, and the
    result has the same bytes. Returns the manifest, and how many bytes of images were read: None if `out` was complete.
    """
    decoder = decode.choose()
    identity = {**settings._asdict(), "decoder": decoder.name, "seed": _SEED, **source.fingerprint()}
    path = out / manifest.NAME
    with _claimed(out, identity) as records:
        if path.is_file():
            return _read_manifest(path), None
        plan = {
            "train": _plan("train", source.train, _shuffled(source.train), settings.shard_size, out, records),
            "val": _plan("val", source.val, np.arange(len(source.val)), settings.shard_size, out, records),
        }
        tasks = [*plan["train"], *plan["val"]]
        todo = [task for task in tasks if read_record(task) is None]
        total, missing = (sum(len(task.indices) for task in some) for some in (tasks, todo))
        with progress(total, total - missing) as advance:
            encoding = Encoding(decoder, settings.resize, settings.quality)
            pool.run(partial(write_shard, encoding, skip_bad), todo, workers, advance)
        written = {split: [read_record(task) for task in plan[split]] for split in plan}
        splits = {split: _write_index(out, split, written[split], len(source.classes)) for split in plan}
        content = manifest.Manifest(classes=source.classes, settings=identity, splits=splits)
        with replacing(path) as file:
            file.write(content.model_dump_json(indent=1).encode() + b"\n")
        return content, sum(record["bytes_in"] for split in written.values() for record in split)


def _read_manifest(path: Path) -> manifest.Manifest:
    return manifest.parse(path.read_bytes(), str(path))


@contextmanager
def _claimed(out: Path, identity: dict[str, Any]) -> Iterator[Path]:
    """Lock `out`, and yield its folder of shard records, which is deleted on success."""
    records, finished = out / ".progress", out / manifest.NAME
    if finished.is_file():
        _check_settings(_read_manifest(finished).settings, identity, out)
    elif out.is_dir() and any(out.iterdir()) and not records.is_dir():
        raise DataError(f"out={out} is not empty and was not written by fvit-prepare; choose a new folder")
    records.mkdir(parents=True, exist_ok=True)
    lock = FileLock(records / "lock")
    try:
        # The workers of a killed process hold its lock until they have finished their image.
        lock.acquire(timeout=_LOCK_SECONDS)
    except Timeout:
        raise DataError(f"another process is writing to {out}; wait for it, or choose another folder") from None
    try:
        settings = records / "settings.json"
        if settings.is_file():
            _check_settings(json.loads(settings.read_bytes()), identity, out)
        else:
            with replacing(settings) as file:
                file.write(json.dumps(identity).encode())
        for partial_file in out.rglob(f"*{PARTIAL}"):
            partial_file.unlink()
        yield records
        shutil.rmtree(records)
    finally:
        lock.release()


def _check_settings(before: dict[str, Any], now: dict[str, Any], out: Path) -> None:
    before, now = _flat(before), _flat(now)
    if different := [key for key in {**before, **now} if before.get(key) != now.get(key)]:
        changes = "; ".join(f"{key} was {before.get(key)} and is now {now.get(key)}" for key in different)
        raise DataError(f"out={out} was written with other settings: {changes}. Choose another folder, or delete it")


def _flat(settings: dict[str, Any]) -> dict[str, Any]:
    plain = json.loads(json.dumps(settings))  # tuples become lists, as in the file
    source = {f"source.{key}": value for key, value in plain.pop("source", {}).items()}
    return {**source, **plain}


def _plan(split: str, images: Images, order: np.ndarray, size: int, out: Path, records: Path) -> list[ShardTask]:
    (out / split).mkdir(exist_ok=True)
    tasks = []
    for number, start in enumerate(range(0, len(order), size)):
        stem = f"{split}-{number:05d}"
        name = f"{split}/{stem}.tar"
        tasks.append(ShardTask(name, images, order[start:][:size], out / name, records / f"{stem}.json"))
    return tasks


def _shuffled(images: Images) -> np.ndarray:
    """A permutation of the training images, with a fixed seed.

    Images from shards, which are usually mixed already, are mixed among a few shards at a time, so each remote shard is
    fetched only once.
    """
    generator = np.random.default_rng(_SEED)
    sizes = images.shard_sizes
    if sizes is None:
        return generator.permutation(len(images))
    starts = np.cumsum(sizes) - sizes
    order = generator.permutation(len(sizes))
    groups = [order[start:][:_SHARDS_MIXED] for start in range(0, len(order), _SHARDS_MIXED)]
    members = [np.concatenate([starts[shard] + np.arange(sizes[shard]) for shard in group]) for group in groups]
    return np.concatenate([generator.permutation(indices) for indices in members])


def _write_index(out: Path, split: str, records: list[dict[str, Any]], num_classes: int) -> manifest.Split:
    skipped = [image for record in records for image in record["skipped"]]
    rows = [tuple(row) for record in records for row in record["entries"]]
    if not rows:
        first = f", the first: {skipped[0]['name']}: {skipped[0]['reason']}" if skipped else ""
        raise DataError(f"all {len(skipped)} images of {split} are damaged{first}")
    entries = np.array(rows, dtype=ENTRY)
    name = f"{split}/index.npy"
    with replacing(out / name) as file:
        np.save(file, entries, allow_pickle=False)
        size = file.tell()
        file.seek(0)
        digest = hashlib.file_digest(file, "sha256").hexdigest()
    return manifest.Split(
        images=len(entries),
        per_class=np.bincount(entries["label"], minlength=num_classes).tolist(),
        shards=[manifest.Shard(**record["shard"]) for record in records if record["entries"]],
        index=manifest.FileEntry(name=name, size=size, sha256=digest),
        skipped=[manifest.Skipped(**image) for image in skipped],
    )
