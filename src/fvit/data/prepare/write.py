"""From a source to a folder of tar shards with index and manifest; restartable at any moment."""

import hashlib
import json
import shutil
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np
from filelock import FileLock, Timeout

from fvit.data import pool
from fvit.data.formats import decode, manifest
from fvit.data.formats.tar import ENTRY
from fvit.data.images import DataError, Images
from fvit.data.prepare.shard import GO_ON, ShardWriter, Task, read_note
from fvit.data.sources import Source
from fvit.data.storage.atomic import PARTIAL, replacing

Progress = Callable[[int, int], AbstractContextManager[pool.Advance]]
"""Opened with how many there are in all and how many are done already."""

SPLITS = ("train", "val")

# The order of the training images is drawn once and for all.
_SEED = 0
_SHARDS_MIXED = 8
_PATIENCE = 10.0
"""Seconds to wait for another preparation of the same folder."""


@dataclass(frozen=True)
class Settings:
    """What the bytes that are written depend on.

    Attributes:
        source: name and options of the source, without credentials.
        resize: pixels of the shorter side; None keeps images as they are.
        quality: of the JPEGs that are written.
        shard_size: images a shard.
    """

    source: dict[str, Any]
    resize: int | None
    quality: int
    shard_size: int


@dataclass(frozen=True)
class Outcome:
    """What there is now.

    Attributes:
        content: the manifest.
        bytes_in: of the images that were read; None if everything was there before.
    """

    content: manifest.Manifest
    bytes_in: int | None


def write(source: Source, out: Path, settings: Settings, workers: int, bad: str, progress: Progress) -> Outcome:
    """Write all images of `source` to `out`: WebDataset shards, an index a split, and manifest.json, which comes last.

    Training images are mixed once, with a fixed seed, so that each shard holds images of many classes; validation
    images keep their order. Files appear under their names when they are whole. After an end of any kind the same
    call goes on with the shards that are missing, and ends with the same bytes.

    Args:
        source: where images come from.
        out: new, empty, or left by a call with the same settings.
        settings: what goes into the manifest.
        workers: processes; 0 is this one.
        bad: ``skip`` or ``fatal``, for damaged images.
        progress: counts images.

    Raises:
        DataError: `out` holds something else, or is being written; a label is beyond the classes; an image cannot be
            read, or is damaged and that is fatal; a split has no image that is whole.
    """
    decoder = decode.choose().name
    identity = {**asdict(settings), "decoder": decoder, "seed": _SEED, **source.facts()}
    with _claim(out, identity) as notes:
        if (out / manifest.NAME).is_file():
            return Outcome(manifest.read(out / manifest.NAME), None)
        tasks = _plan(source, settings.shard_size, notes)
        todo = [task for task in tasks if read_note(task, out) is None]
        for split in SPLITS:
            (out / split).mkdir(exist_ok=True)
        work = ShardWriter(source, out, settings.resize, settings.quality, decoder, bad)
        total, left = (sum(len(task.indices) for task in some) for some in (tasks, todo))
        with progress(total, total - left) as advance:
            pool.run(work, todo, workers, advance)
        written = {split: [_note(task, out) for task in tasks if task.split == split] for split in SPLITS}
        splits = {split: _finish(out, split, written[split], len(source.classes)) for split in SPLITS}
        content = manifest.Manifest(classes=source.classes, settings=identity, splits=manifest.Splits(**splits))
        manifest.write(out / manifest.NAME, content)
        return Outcome(content, sum(note["bytes_in"] for split in SPLITS for note in written[split]))


@contextmanager
def _claim(out: Path, identity: dict[str, Any]) -> Iterator[Path]:
    """The folder of notes of this preparation, which is removed when all is written; nobody else writes meanwhile."""
    notes = out / ".progress"
    if out.is_dir() and any(out.iterdir()) and not notes.is_dir() and not (out / manifest.NAME).is_file():
        raise DataError(f"out={out} is not empty and holds no preparation; choose a new folder")
    if (out / manifest.NAME).is_file():
        _compare(manifest.read(out / manifest.NAME).settings, identity, out)
    notes.mkdir(parents=True, exist_ok=True)
    lock = FileLock(notes / "lock")
    try:
        # A process that was killed leaves the lock to its workers, which end with the image they are at.
        lock.acquire(timeout=_PATIENCE)
    except Timeout:
        raise DataError(f"another process is preparing {out}; wait for it, or choose another folder") from None
    try:
        settings = notes / "settings.json"
        if settings.is_file():
            _compare(json.loads(settings.read_bytes()), identity, out)
        else:
            with replacing(settings) as file:
                file.write(json.dumps(identity).encode())
        for partial in out.rglob(f"*{PARTIAL}"):
            partial.unlink()
        yield notes
        shutil.rmtree(notes)
    finally:
        lock.release()


def _compare(before: dict[str, Any], now: dict[str, Any], out: Path) -> None:
    before, now = _flat(before), _flat(now)
    differing = [key for key in {**before, **now} if before.get(key) != now.get(key)]
    if differing:
        changes = "; ".join(f"{key} was {before.get(key)} and is {now.get(key)}" for key in differing)
        raise DataError(f"out={out} holds another preparation: {changes}. Choose another folder, or remove this one")


def _flat(settings: dict[str, Any]) -> dict[str, Any]:
    # As JSON has them: a tuple has become a list.
    plain = json.loads(json.dumps(settings))
    source = {f"source.{key}": value for key, value in plain.pop("source", {}).items()}
    return {**source, **plain}


def _plan(source: Source, shard_size: int, notes: Path) -> list[Task]:
    orders = {"train": _mixed(source.train), "val": np.arange(len(source.val))}
    return [
        Task(
            split, f"{split}/{split}-{number:05d}.tar", notes / f"{split}-{number:05d}.json", order[start:][:shard_size]
        )
        for split, order in orders.items()
        for number, start in enumerate(range(0, len(order), shard_size))
    ]


def _mixed(images: Images) -> np.ndarray:
    """The training images in the order they are written: a permutation, drawn with a fixed seed.

    Images that lie in shards are mixed among a few shards at a time. Where shards are fetched, each is then fetched
    once; they are mixed already, if others have made them as one does.
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


def _note(task: Task, out: Path) -> dict[str, Any]:
    note = read_note(task, out)
    if note is None:
        raise DataError(f"{out / task.name} has been removed or changed by another process. {GO_ON}")
    return note


def _finish(out: Path, split: str, notes: list[dict[str, Any]], num_classes: int) -> manifest.Split:
    """Write the index of a split."""
    skipped = [image for note in notes for image in note["skipped"]]
    rows = [tuple(row) for note in notes for row in note["entries"]]
    if not rows:
        first = f"; the first: {skipped[0]['name']}: {skipped[0]['reason']}" if skipped else ""
        raise DataError(f"no image of {split} is whole, of {len(skipped)}{first}")
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
        shards=[manifest.Shard(**note["shard"]) for note in notes if note["entries"]],
        index=manifest.FileEntry(name=name, size=size, sha256=digest),
        skipped=[manifest.Skipped(**image) for image in skipped],
    )
