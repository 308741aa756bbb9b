import json
import multiprocessing
import os
import pickle
import sys
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from fvit.data.formats import parquet
from fvit.data.formats.parquet import open_parquet
from fvit.data.images import BadImage, DataError
from fvit.data.storage.base import LocalStorage, Storage

IMAGE = pa.struct([("bytes", pa.binary()), ("path", pa.string())])


def content(name, row, size=50):
    return f"{name}:{row};".encode().ljust(size, b".")


def write(path, labels, group=4, images=None, names=None, **options):
    """A file of an image a label; `images` in the place of the usual bytes."""
    path.parent.mkdir(parents=True, exist_ok=True)
    images = images or [{"bytes": content(path.stem, row), "path": f"{row}.JPEG"} for row in range(len(labels))]
    table = pa.table({"image": pa.array(images, IMAGE), "label": pa.array(labels, pa.int64())})
    if names:
        features = {"image": {"_type": "Image"}, "label": {"names": names, "_type": "ClassLabel"}}
        table = table.replace_schema_metadata({"huggingface": json.dumps({"info": {"features": features}})})
    pq.write_table(table, path, row_group_size=group, **options)


@pytest.fixture
def root(tmp_path):
    """Two files to train with, of 10 and 7 rows in groups of 4, and one of 3 to validate with."""
    root = tmp_path / "root"
    write(root / "data" / "train-00000-of-00002.parquet", [row % 3 for row in range(10)])
    write(root / "data" / "train-00001-of-00002.parquet", [row % 2 for row in range(7)])
    write(root / "data" / "validation-00000-of-00001.parquet", [2, 1, 0])
    write(root / "data" / "test-00000-of-00001.parquet", [-1, -1])
    return root


@pytest.fixture
def opened(root, tmp_path):
    return open_parquet(LocalStorage(root), tmp_path / "cache")


def expected():
    return [
        *(content("train-00000-of-00002", row) for row in range(10)),
        *(content("train-00001-of-00002", row) for row in range(7)),
    ]


def test_each_row_is_an_image_with_its_label(opened):
    train, val, classes = opened
    assert [train.read(index) for index in range(len(train))] == expected()
    assert train.labels.tolist() == [row % 3 for row in range(10)] + [row % 2 for row in range(7)]
    assert train.labels.dtype == np.int32
    assert [val.read(index) for index in range(3)] == [content("validation-00000-of-00001", row) for row in range(3)]
    assert val.labels.tolist() == [2, 1, 0]
    assert classes == ["0", "1", "2"]


def test_images_are_read_in_any_order(opened):
    train, _, _ = opened
    order = np.random.default_rng(0).permutation(np.tile(np.arange(17), 3))
    assert [train.read(index) for index in order] == [expected()[index] for index in order]


@pytest.mark.parametrize("options", [{"compression": "snappy"}, {"compression": "zstd"}, {"use_dictionary": False}])
def test_any_encoding_is_read(root, tmp_path, options):
    write(root / "data" / "train-00000-of-00002.parquet", [row % 3 for row in range(10)], **options)
    train, _, _ = open_parquet(LocalStorage(root), tmp_path / "cache")
    assert [train.read(index) for index in range(17)] == expected()


def test_a_shard_is_a_file(opened):
    train, val, _ = opened
    assert train.shard_sizes.tolist() == [10, 7]
    assert val.shard_sizes.tolist() == [3]


def test_files_are_fetched_ahead_by_number(root, tmp_path):
    asked = []

    class Recorded(LocalStorage):
        def prefetch(self, files):
            asked.extend(file.name for file in files)

    train, _, _ = open_parquet(Recorded(root), tmp_path / "cache")
    train.prefetch(np.array([1, 0]))
    assert asked == ["data/train-00001-of-00002.parquet", "data/train-00000-of-00002.parquet"]


def test_an_image_is_located_by_file_and_row(opened, root):
    train, _, _ = opened
    assert train.locate(9) == f"{root}/data/train-00000-of-00002.parquet, row 9"
    assert train.locate(10) == f"{root}/data/train-00001-of-00002.parquet, row 0"


def test_few_row_groups_and_files_are_kept(opened, monkeypatch):
    train, _, _ = opened
    monkeypatch.setattr(parquet, "_KEPT_BYTES", 600)
    monkeypatch.setattr(parquet, "_KEPT_FILES", 1)
    for index in [*range(17), *range(17)]:
        assert train.read(index) == expected()[index]
        assert len(train._open_files) == 1
        assert train._kept_bytes == sum(group.nbytes for group in train._groups.values()) <= 600
    assert len(train._groups) > 1, "the bound leaves room for more than one"
    monkeypatch.setattr(parquet, "_KEPT_BYTES", 1)
    assert [train.read(index) for index in range(17)] == expected(), "a group larger than the bound"
    assert len(train._groups) == 1


def test_neighbours_cost_one_read(opened, monkeypatch):
    train, _, _ = opened
    reads = []
    read = pq.ParquetFile.read_row_group
    monkeypatch.setattr(
        pq.ParquetFile,
        "read_row_group",
        lambda self, group, **options: reads.append(group) or read(self, group, **options),
    )
    for index in range(17):
        train.read(index)
    assert reads == [0, 1, 2, 0, 1]


def read_all(order):
    return [SHARED.read(index) for index in order]


def test_forked_processes_read_at_the_same_time(opened):
    global SHARED
    SHARED, _, _ = opened
    SHARED.read(3)  # files are open when the others begin
    orders = [np.random.default_rng(seed).permutation(17) for seed in range(4)]
    with multiprocessing.get_context("fork").Pool(2) as pool:
        results = pool.map(read_all, orders)
    assert results == [[expected()[index] for index in order] for order in orders]


def test_a_set_in_use_can_be_pickled(opened):
    train, _, _ = opened
    train.read(3)
    again = pickle.loads(pickle.dumps(train))
    assert [again.read(index) for index in range(17)] == expected()


def test_a_fork_opens_files_of_its_own(opened, monkeypatch):
    train, _, _ = opened
    train.read(0)
    before = train._open_files[0]
    monkeypatch.setattr(os, "getpid", lambda: -1)
    assert train.read(0) == expected()[0]
    assert train._open_files[0] is not before


def test_a_set_of_many_images_is_small(tmp_path):
    layout = parquet._Layout(np.full(100, 10_000), np.zeros(1_000_000, dtype=np.int64), np.zeros(0, dtype=np.uint8))
    write(tmp_path / "train.parquet", [0])
    images = parquet.ParquetImages(LocalStorage(tmp_path), LocalStorage(tmp_path).files([".parquet"]), [layout])
    assert len(pickle.dumps(images)) < 5 * len(images)


def test_class_names_of_the_schema(root, tmp_path):
    write(root / "data" / "train-00000-of-00002.parquet", [0, 1], names=["tench, Tinca tinca", "goldfish", "shark"])
    assert open_parquet(LocalStorage(root), tmp_path)[2] == ["tench, Tinca tinca", "goldfish", "shark"]


def test_a_thousand_classes_are_those_of_imagenet(root, tmp_path):
    write(root / "data" / "train-00000-of-00002.parquet", list(range(1000)), group=1000)
    classes = open_parquet(LocalStorage(root), tmp_path)[2]
    assert (len(classes), classes[0], classes[-1]) == (1000, "n01440764", "n15075141")


def test_large_binary_and_int32_are_as_good(root, tmp_path):
    kind = pa.struct([("bytes", pa.large_binary()), ("path", pa.string())])
    images = pa.array([{"bytes": b"large", "path": ""}], kind)
    table = pa.table({"label": pa.array([2], pa.int32()), "image": images})
    pq.write_table(table, root / "data" / "train-00000-of-00002.parquet")
    train, _, _ = open_parquet(LocalStorage(root), tmp_path)
    assert (train.read(0), train.labels[0]) == (b"large", 2)


def test_empty_files_and_groups_shift_nothing(root, tmp_path):
    write(root / "data" / "train-00000a.parquet", [])
    train, _, _ = open_parquet(LocalStorage(root), tmp_path)
    assert [train.read(index) for index in range(17)] == expected()


@pytest.mark.parametrize(
    ("image", "word"), [(None, "null"), ({"bytes": None, "path": "x"}, "null"), ({"bytes": b"", "path": "x"}, "empty")]
)
def test_a_row_without_an_image_is_a_bad_image(root, tmp_path, image, word):
    whole = {"bytes": b"whole", "path": ""}
    write(root / "data" / "train-00000-of-00002.parquet", [0, 1, 2], images=[whole, image, whole])
    train, _, _ = open_parquet(LocalStorage(root), tmp_path)
    with pytest.raises(BadImage, match=rf"train-00000-of-00002\.parquet, row 1: the image is {word}"):
        train.read(1)
    assert train.read(0) == train.read(2) == b"whole"


def refuses(root, tmp_path, match):
    with pytest.raises(DataError, match=match) as caught:
        open_parquet(LocalStorage(root), tmp_path / "cache")
    assert not isinstance(caught.value, BadImage)


@pytest.mark.parametrize("damage", ["no bytes", "cut", "foreign"])
def test_a_damaged_file_is_named(root, tmp_path, damage):
    path = root / "data" / "train-00001-of-00002.parquet"
    whole = path.read_bytes()
    path.write_bytes({"no bytes": b"", "cut": whole[:-20], "foreign": b"\x89PNG" * 100}[damage])
    refuses(root, tmp_path, r"train-00001-of-00002\.parquet cannot be read as Parquet: .*Fetch it again")


@pytest.mark.parametrize("opened_before", [True, False])
def test_a_file_cut_after_the_start_is_named(opened, root, opened_before):
    train, _, _ = opened
    if opened_before:
        train.read(0)
    os.truncate(root / "data" / "train-00000-of-00002.parquet", 100)
    with pytest.raises(DataError, match=r"train-00000-of-00002\.parquet"):
        train.read(9)


def test_a_file_that_went_is_named(opened, root):
    train, _, _ = opened
    (root / "data" / "train-00001-of-00002.parquet").unlink()
    with pytest.raises(DataError, match=r"train-00001-of-00002\.parquet is missing"):
        train.read(12)


def test_flipped_bytes_are_noticed_where_the_file_has_checksums(root, tmp_path):
    path = root / "data" / "train-00000-of-00002.parquet"
    write(path, [row % 3 for row in range(10)], compression="none", use_dictionary=False, write_page_checksum=True)
    train, _, _ = open_parquet(LocalStorage(root), tmp_path / "cache")
    path.write_bytes(path.read_bytes().replace(b":9;", b":8;"))
    with pytest.raises(DataError, match=r"train-00000-of-00002\.parquet .*CRC"):
        train.read(9)


@pytest.mark.parametrize("error", [OSError(5, "Input/output error"), TimeoutError("it took longer than 60 s")])
def test_what_may_pass_stays_an_os_error(opened, monkeypatch, error):
    def fail(*_, **__):
        raise error

    train, _, _ = opened
    with monkeypatch.context() as patched:
        patched.setattr(pq.ParquetFile, "read_row_group", fail)
        with pytest.raises(OSError, match=r"Input|longer") as caught:
            train.read(0)
    assert caught.value is error
    assert train.read(0) == expected()[0]


@pytest.mark.parametrize(
    "columns",
    [
        {"img": pa.array([{"bytes": b"x", "path": ""}], IMAGE), "label": pa.array([0])},
        {"image": pa.array([{"bytes": b"x", "path": ""}], IMAGE), "fine_label": pa.array([0])},
        {"image": pa.array([b"x"]), "label": pa.array([0])},
        {"image": pa.array([{"path": "x"}]), "label": pa.array([0])},
        {"image": pa.array([{"bytes": "x"}]), "label": pa.array([0])},
        {"image": pa.array([{"bytes": b"x", "path": ""}], IMAGE), "label": pa.array(["cat"])},
    ],
)
def test_other_columns_are_listed(root, tmp_path, columns):
    pq.write_table(pa.table(columns), root / "data" / "train-00001-of-00002.parquet")
    refuses(root, tmp_path, rf"train-00001.*needs the columns image.*; it has {' .*'.join(columns)} ")


@pytest.mark.parametrize(
    ("split", "labels", "match"),
    [
        ("train-00001-of-00002", [0, -1], r"train-00001-of-00002\.parquet, row 1: label -1 is negative"),
        ("validation-00000-of-00001", [0, 3], r"validation-.*\.parquet, row 1: label 3 is none of the classes 0 … 2"),
        ("train-00001-of-00002", [0, None], r"train-00001-of-00002\.parquet: 1 of 2 labels are null"),
    ],
)
def test_a_label_that_is_no_class_is_named(root, tmp_path, split, labels, match):
    write(root / "data" / f"{split}.parquet", labels)
    refuses(root, tmp_path, match)


@pytest.mark.parametrize(("prefix", "split"), [("train", "training"), ("validation", "validation")])
def test_a_missing_split(root, tmp_path, prefix, split):
    for path in (root / "data").glob(f"{prefix}-*"):
        path.rename(path.with_name(f"extra{path.name[-15:]}"))
    (root / "data" / "test-00000-of-00001.parquet").unlink()
    refuses(root, tmp_path, f"no Parquet file of {split} images: it has data/extra")


def test_without_pyarrow_it_says_what_to_install(root, tmp_path, monkeypatch):
    monkeypatch.setitem(sys.modules, "pyarrow.parquet", None)
    refuses(root, tmp_path, r"needs pyarrow: pip install 'fvit\[parquet\]'")


class Fetched(Storage):
    """A folder as if it were behind a URL: what is made local is noted, and fails when told to."""

    def __init__(self, root):
        self.folder, self.root, self.fetched, self.fails = LocalStorage(root), "s3://bucket", [], None

    def files(self, suffixes):
        return self.folder.files(suffixes)

    def local(self, file):
        if self.fails == file.name:
            raise DataError("the network is gone")
        self.fetched.append(Path(file.name).name)
        return self.folder.local(file)


def test_labels_behind_a_url_are_fetched_once(root, tmp_path):
    first, second = Fetched(root), Fetched(root)
    train, _, classes = open_parquet(first, tmp_path / "cache")
    assert len(first.fetched) == 3
    again, _, classes_again = open_parquet(second, tmp_path / "cache")
    assert second.fetched == []
    assert (again.labels.tolist(), classes_again) == (train.labels.tolist(), classes)
    assert [again.read(index) for index in range(17)] == expected()


def test_of_several_processes_one_fetches(root, tmp_path):
    places = [Fetched(root) for _ in range(4)]
    with ThreadPoolExecutor(4) as ranks:
        sets = list(ranks.map(lambda place: open_parquet(place, tmp_path / "cache")[0], places))
    assert sorted(name for place in places for name in place.fetched) == sorted(
        path.name for path in root.rglob("*.parquet") if not path.name.startswith("test")
    )
    assert all(images.labels.tolist() == sets[0].labels.tolist() for images in sets)


def test_a_file_that_changed_behind_a_url_is_fetched_again(root, tmp_path):
    open_parquet(Fetched(root), tmp_path / "cache")
    write(root / "data" / "train-00001-of-00002.parquet", [2] * 9)
    place = Fetched(root)
    train, _, _ = open_parquet(place, tmp_path / "cache")
    assert place.fetched == ["train-00001-of-00002.parquet"]
    assert train.labels[10:].tolist() == [2] * 9


def test_an_interrupted_start_goes_on(root, tmp_path):
    place = Fetched(root)
    place.fails = "data/train-00001-of-00002.parquet"
    with pytest.raises(DataError, match="the network is gone"):
        open_parquet(place, tmp_path / "cache")
    place.fails, place.fetched = None, []
    open_parquet(place, tmp_path / "cache")
    assert place.fetched == ["train-00001-of-00002.parquet", "validation-00000-of-00001.parquet"]


@pytest.mark.parametrize(("group", "warnings"), [(8, 0), (9, 1)])
def test_row_groups_of_many_images_are_warned_of(root, tmp_path, caplog, group, warnings):
    for path in root.rglob("train-*.parquet"):
        write(path, [0, 1, 2] * 7, group=group)
    open_parquet(LocalStorage(root), tmp_path / "cache")
    assert len(caplog.messages) == warnings
    for message in caplog.messages:
        assert "its whole row group of up to 9 images" in message
        assert f"`fvit-prepare data.root={root} out=…`" in message
