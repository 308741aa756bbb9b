import json
import multiprocessing
import os
import pickle
import sys

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from fvit.data.formats.parquet import open_parquet
from fvit.data.images import BadImage, DataError
from fvit.data.storage.base import LocalStorage

IMAGE = pa.struct([("bytes", pa.binary()), ("path", pa.string())])


def content(name, row, size=50):
    return f"{name}:{row};".encode().ljust(size, b".")


def write(path, labels, group=4, images=None, names=None, **options):
    """A file with one image per label; `images` restorages the default bytes."""
    path.parent.mkdir(parents=True, exist_ok=True)
    images = images or [{"bytes": content(path.stem, row), "path": f"{row}.JPEG"} for row in range(len(labels))]
    table = pa.table({"image": pa.array(images, IMAGE), "label": pa.array(labels, pa.int64())})
    if names:
        features = {"image": {"_type": "Image"}, "label": {"names": names, "_type": "ClassLabel"}}
        table = table.replace_schema_metadata({"huggingface": json.dumps({"info": {"features": features}})})
    pq.write_table(table, path, row_group_size=group, **options)


@pytest.fixture
def root(tmp_path):
    """Two training files of 10 and 7 rows in groups of 4, and a validation file of 3."""
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


def test_rows_are_labelled_images(opened):
    train, val, classes = opened
    assert [train.read(index) for index in range(len(train))] == expected()
    assert train.labels.tolist() == [row % 3 for row in range(10)] + [row % 2 for row in range(7)]
    assert train.labels.dtype == np.int32
    assert train.shard_sizes.tolist() == [10, 7]
    assert [val.read(index) for index in range(3)] == [content("validation-00000-of-00001", row) for row in range(3)]
    assert val.labels.tolist() == [2, 1, 0]
    assert classes == ["0", "1", "2"]


def test_images_are_read_in_any_order(opened):
    train, _, _ = opened
    order = np.random.default_rng(0).permutation(np.tile(np.arange(17), 3))
    assert [train.read(index) for index in order] == [expected()[index] for index in order]
    assert [pickle.loads(pickle.dumps(train)).read(index) for index in range(17)] == expected()


@pytest.mark.parametrize("options", [{"compression": "snappy"}, {"compression": "zstd"}, {"use_dictionary": False}])
def test_every_compression_is_read(root, tmp_path, options):
    write(root / "data" / "train-00000-of-00002.parquet", [row % 3 for row in range(10)], **options)
    train, _, _ = open_parquet(LocalStorage(root), tmp_path / "cache")
    assert [train.read(index) for index in range(17)] == expected()


def test_prefetch_takes_file_numbers(root, tmp_path):
    asked = []

    class Recorded(LocalStorage):
        def prefetch(self, files):
            asked.extend(file.name for file in files)

    train, _, _ = open_parquet(Recorded(root), tmp_path / "cache")
    asked.clear()
    train.prefetch(np.array([1, 0]))
    assert asked == ["data/train-00001-of-00002.parquet", "data/train-00000-of-00002.parquet"]


def test_locate_names_file_and_row(opened, root):
    train, _, _ = opened
    assert train.locate(9) == f"{root}/data/train-00000-of-00002.parquet, row 9"
    assert train.locate(10) == f"{root}/data/train-00001-of-00002.parquet, row 0"


def test_sequential_reads_read_each_group_once(opened, monkeypatch):
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


def test_class_names_from_the_schema(root, tmp_path):
    write(root / "data" / "train-00000-of-00002.parquet", [0, 1], names=["tench, Tinca tinca", "goldfish", "shark"])
    assert open_parquet(LocalStorage(root), tmp_path)[2] == ["tench, Tinca tinca", "goldfish", "shark"]


def test_files_must_agree_on_the_class_names(root, tmp_path):
    names = ["tench, Tinca tinca", "goldfish", "shark"]
    write(root / "data" / "train-00000-of-00002.parquet", [0, 1], names=names)
    write(root / "data" / "validation-00000-of-00001.parquet", [0, 1], names=names[::-1])
    with pytest.raises(DataError, match=r"classes of .*train-00000.* and .*validation-0.* they are in another order"):
        open_parquet(LocalStorage(root), tmp_path / "cache")
    write(root / "data" / "validation-00000-of-00001.parquet", [0, 1], names=["goldfish", "shark", "whale"])
    with pytest.raises(DataError, match=r"and .*validation-.* differ: tench, Tinca tinca, whale"):
        open_parquet(LocalStorage(root), tmp_path / "cache")


def test_other_column_types_are_read(root, tmp_path):
    kind = pa.struct([("bytes", pa.large_binary()), ("path", pa.string())])
    images = pa.array([{"bytes": b"large", "path": ""}], kind)
    table = pa.table({"label": pa.array([2], pa.int32()), "image": images})
    pq.write_table(table, root / "data" / "train-00000-of-00002.parquet")
    train, _, _ = open_parquet(LocalStorage(root), tmp_path)
    assert (train.read(0), train.labels[0]) == (b"large", 2)


def test_empty_files_are_skipped(root, tmp_path):
    write(root / "data" / "train-00000a.parquet", [])
    train, _, _ = open_parquet(LocalStorage(root), tmp_path)
    assert [train.read(index) for index in range(17)] == expected()


@pytest.mark.parametrize(
    ("image", "word"), [(None, "null"), ({"bytes": None, "path": "x"}, "null"), ({"bytes": b"", "path": "x"}, "empty")]
)
def test_row_without_an_image_is_a_bad_image(root, tmp_path, image, word):
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
def test_damaged_file_is_named(root, tmp_path, damage):
    path = root / "data" / "train-00001-of-00002.parquet"
    whole = path.read_bytes()
    path.write_bytes({"no bytes": b"", "cut": whole[:-20], "foreign": b"\x89PNG" * 100}[damage])
    refuses(root, tmp_path, r"train-00001-of-00002\.parquet cannot be read as Parquet: .*Fetch it again")


@pytest.mark.parametrize("opened_before", [True, False])
def test_file_truncated_during_the_run_is_named(opened, root, opened_before):
    train, _, _ = opened
    if opened_before:
        train.read(0)
    os.truncate(root / "data" / "train-00000-of-00002.parquet", 100)
    with pytest.raises(DataError, match=r"train-00000-of-00002\.parquet"):
        train.read(9)


def test_missing_file_is_named(opened, root):
    train, _, _ = opened
    (root / "data" / "train-00001-of-00002.parquet").unlink()
    with pytest.raises(DataError, match=r"train-00001-of-00002\.parquet is missing"):
        train.read(12)


def test_page_checksums_are_verified(root, tmp_path):
    path = root / "data" / "train-00000-of-00002.parquet"
    write(path, [row % 3 for row in range(10)], compression="none", use_dictionary=False, write_page_checksum=True)
    train, _, _ = open_parquet(LocalStorage(root), tmp_path / "cache")
    path.write_bytes(path.read_bytes().replace(b":9;", b":8;"))
    with pytest.raises(DataError, match=r"train-00000-of-00002\.parquet .*CRC"):
        train.read(9)


@pytest.mark.parametrize("error", [OSError(5, "Input/output error"), TimeoutError("it took longer than 60 s")])
def test_system_errors_stay_os_errors(opened, monkeypatch, error):
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
def test_wrong_columns_are_listed(root, tmp_path, columns):
    pq.write_table(pa.table(columns), root / "data" / "train-00001-of-00002.parquet")
    refuses(root, tmp_path, rf"train-00001.*needs the columns image.*, but has {' .*'.join(columns)} ")


def test_null_labels_are_reported(root, tmp_path):
    write(root / "data" / "train-00001-of-00002.parquet", [0, None])
    refuses(root, tmp_path, r"train-00001-of-00002\.parquet: 1 of 2 labels are null")


def test_negative_labels_do_not_break_class_names(root, tmp_path):
    write(root / "data" / "train-00001-of-00002.parquet", [0, -1])
    assert open_parquet(LocalStorage(root), tmp_path)[2] == ["0", "1", "2"]


def test_missing_pyarrow_is_reported(root, tmp_path, monkeypatch):
    monkeypatch.setitem(sys.modules, "pyarrow.parquet", None)
    refuses(root, tmp_path, r"needs pyarrow: pip install 'fvit\[parquet\]'")


@pytest.mark.parametrize(("group", "warnings"), [(8, 0), (9, 1)])
def test_large_row_groups_are_warned_about(root, tmp_path, caplog, group, warnings):
    for path in root.rglob("train-*.parquet"):
        write(path, [0, 1, 2] * 7, group=group)
    open_parquet(LocalStorage(root), tmp_path / "cache")
    # A busy machine is also told that the index is being built.
    about = [message for message in caplog.messages if "indexing" not in message]
    assert len(about) == warnings
    for message in about:
        assert "its whole row group of up to 9 images" in message
        assert f"`fvit-prepare data.root={root} out=…`" in message
