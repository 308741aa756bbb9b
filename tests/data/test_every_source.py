"""Every format through the DataModule, on several ranks and with workers."""

import io
import itertools
import os
import shutil
from collections import Counter
from types import SimpleNamespace

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from PIL import Image

from fvit.data import ImageDataModule, sources
from fvit.data.images import Pixels

from .prepare.folders import prepared
from .remote import FaultyServer
from .tars import sample, write_tar

pytestmark = [
    pytest.mark.filterwarnings("ignore:.*use of fork\\(\\) may lead to deadlocks:DeprecationWarning"),
]
TRAIN, VAL, BATCH = 46, 11, 4
CLASSES = 3


def picture(number):
    """An image whose red level encodes its number."""
    buffer = io.BytesIO()
    Image.new("RGB", (12, 9), (number * 4, 0, 255)).save(buffer, "PNG")
    return buffer.getvalue()


def number_of(pixels):
    return round(pixels[..., 0].float().mean().item() / 4)


SPLITS = {"train": range(TRAIN), "val": range(TRAIN, TRAIN + VAL)}


def tree(root):
    for split, numbers in SPLITS.items():
        for number in numbers:
            path = root / split / f"class{number % CLASSES}" / f"{number:03d}.png"
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_bytes(picture(number))
    return {"name": "folder", "root": str(root)}


def flat_validation(root):
    tree(root)
    lines = []
    for number in SPLITS["val"]:
        (root / "val" / f"class{number % CLASSES}" / f"{number:03d}.png").rename(root / "val" / f"{number:03d}.png")
        lines.append(f"{number:03d}.png {number % CLASSES}")
    for label in range(CLASSES):
        (root / "val" / f"class{label}").rmdir()
    (root / "val.txt").write_text("\n".join(lines))
    return {"name": "imagenet", "root": str(root)}


def webdataset(root):
    for split, numbers in SPLITS.items():
        for shard, part in enumerate(batched(numbers, 7)):
            members = []
            for number in part:
                members += [
                    (name.replace(".jpg", ".png"), data)
                    for name, data in sample(f"{number:03d}", number % CLASSES, picture(number))
                ]
            write_tar(root / f"set-{split}-{shard:04d}.tar", members)
    return {"name": "imagenet", "root": str(root), "cache_dir": str(root.parent / "cache")}


def batched(numbers, size):
    return [numbers[start : start + size] for start in range(0, len(numbers), size)]


def shards(root):
    prepared(root, sources.load(**tree(root.parent / "before")), resize=None)
    return {"name": "imagenet", "root": str(root)}


def parquet(root):
    root.mkdir()
    for split, numbers in SPLITS.items():
        for file, part in enumerate(batched(numbers, 20)):
            images = [{"bytes": picture(number), "path": f"{number}.png"} for number in part]
            table = pa.table({"image": images, "label": [number % CLASSES for number in part]})
            pq.write_table(table, root / f"{split}-{file:05d}.parquet", row_group_size=6)
    return {"name": "imagenet", "root": str(root)}


FORMATS = {make.__name__: make for make in (tree, flat_validation, webdataset, shards, parquet)}


@pytest.fixture(scope="module", params=FORMATS)
def options(request, tmp_path_factory):
    return FORMATS[request.param](tmp_path_factory.mktemp("data") / "root")


def served(root):
    """The files of a folder by URL path."""
    paths = [path for path in root.rglob("*") if path.is_file()]
    return {f"/data/{path.relative_to(root).as_posix()}": path.read_bytes() for path in paths}


def rank_of(world, rank, workers, nodes=1, **options):
    """The DataModule of one rank."""
    data = ImageDataModule(
        **options,
        img_size=9,
        batch_size=BATCH,
        num_workers=workers,
        interpolation="nearest",
        crop_pct=1.0,
        augment={"transform": {"no_aug": True}},
    )
    data.trainer = SimpleNamespace(world_size=world, global_rank=rank, num_nodes=nodes, overfit_batches=0)
    return data


def numbers_and_labels(batches):
    return [[(number_of(image), int(label)) for image, label in zip(*batch[:2], strict=True)] for batch in batches]


def assert_exact(world, workers, nodes=1, **options):
    """Each training image at most once, each validation image once, equal batches on all ranks, correct labels."""
    seen, validated = [], Counter()
    for rank in range(world):
        data = rank_of(world, rank, workers, nodes, **options)
        seen.append(numbers_and_labels(data.train_dataloader()))
        validated.update(itertools.chain.from_iterable(numbers_and_labels(data.val_dataloader())))
    steps = TRAIN // (BATCH * world)
    assert [[len(batch) for batch in batches] for batches in seen] == [[BATCH] * steps] * world
    counts = Counter(pair for batches in seen for batch in batches for pair in batch)
    assert set(counts.values()) == {1}
    assert counts.keys() <= {(number, number % CLASSES) for number in SPLITS["train"]}
    assert validated == Counter((number, number % CLASSES) for number in SPLITS["val"])
    return seen


def test_digest_changes_with_the_files_of_its_split_alone(options, tmp_path):
    """A copy of the folder, because others read the original."""
    root = shutil.copytree(options["root"], tmp_path / "root")
    copied = {**options, "root": str(root)}

    def digests():
        source = sources.load(**copied)
        return source.train.digest(), source.val.digest()

    before = digests()
    assert digests() == before
    files = [path for path in sorted(root.rglob("*")) if path.is_file() and "val" in str(path.relative_to(root))]
    for file in files:
        os.utime(file, ns=(0, 0))
    after = digests()
    assert after[0] == before[0]
    assert after[1] != before[1]


def test_digest_of_images_in_memory_is_of_their_pixels():
    pixels = np.arange(2 * 3 * 3, dtype=np.uint8).reshape(2, 3, 3)
    first, again, other = (Pixels(part, np.array([0, 1])).digest() for part in (pixels, pixels.copy(), pixels + 1))
    assert first == again != other
    assert Pixels(pixels, np.array([1, 0])).digest() != first


@pytest.mark.parametrize("world", [1, 3])
def test_exact_on_any_number_of_ranks(options, world):
    assert_exact(world, workers=0, **options)


def test_workers_change_nothing(options):
    alone = assert_exact(2, workers=0, **options)
    assert assert_exact(2, workers=2, **options) == alone


@pytest.mark.slow
def test_remote_shards_in_a_small_cache(tmp_path):
    """ShardWindows: the machine cannot hold all shards, and two machines share them out."""
    root = tmp_path / "root"
    shards(root)
    contents = served(root)
    largest = max(len(content) for name, content in contents.items() if name.endswith(".tar"))
    with FaultyServer(contents) as server:
        options = {"name": "imagenet", "root": f"{server.url}/data", "cache_gib": 3.5 * largest / 2**30}
        data = rank_of(1, 0, 0, **options, cache_dir=str(tmp_path / "cache"))
        assert data.source.train.window == 1
        for nodes, world in ((1, 1), (1, 2), (2, 2), (2, 4)):
            for workers in (0, 2):
                assert_exact(
                    world, workers, nodes, **options, cache_dir=str(tmp_path / f"cache{nodes}{world}{workers}")
                )


def test_each_node_fetches_only_its_own_shards(tmp_path):
    root = tmp_path / "root"
    shards(root)
    contents = served(root)
    largest = max(len(content) for name, content in contents.items() if name.endswith(".tar"))
    with FaultyServer(contents) as server:
        fetched = []
        for rank in range(2):
            server.requests.clear()
            options = {"root": f"{server.url}/data", "cache_gib": 3.5 * largest / 2**30}
            data = rank_of(2, rank, 0, 2, name="imagenet", cache_dir=str(tmp_path / f"cache{rank}"), **options)
            for _ in data.train_dataloader():
                pass
            fetched.append({name for name in server.requests if "train-" in name})
        total = len([name for name in contents if "train-" in name])
        assert len(fetched[0] & fetched[1]) <= 1, "the cut between the nodes may be within a shard"
        assert total - 1 <= len(fetched[0] | fetched[1]) <= total
        assert max(map(len, fetched)) < total - 1


def test_every_shard_is_fetched_once_if_the_cache_is_large_enough(tmp_path):
    root = tmp_path / "root"
    shards(root)
    contents = served(root)
    with FaultyServer(contents) as server:
        data = rank_of(1, 0, 2, name="imagenet", root=f"{server.url}/data", cache_dir=str(tmp_path / "cache"))
        assert data.source.train.window is None
        loader = data.train_dataloader()
        for epoch in range(3):
            loader.sampler.set_epoch(epoch)
            assert sum(len(batch.labels) for batch in loader) == TRAIN // BATCH * BATCH
        assert {count for name, count in server.requests.items() if name.endswith(".tar")} == {1}
