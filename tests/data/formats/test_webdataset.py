import gzip
import json
import pickle
import tarfile

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from fvit.data.formats.webdataset import IMAGES, scan
from fvit.data.images import DataError
from tests.data.tars import jpeg, sample, write_tar


def _scanned(path):
    """(bytes, label) of each image, read through the index."""
    content = path.read_bytes()
    return [
        (content[offset : offset + size], label) for offset, size, label, _ in scan(path, path.name)["entries"].tolist()
    ]


words = st.text(st.characters(categories=["L", "N"], exclude_characters="/"), min_size=1, max_size=120)
keys = st.one_of(words, st.tuples(words, st.sampled_from([".5", ".v1", ".jpg", "..x"])).map("".join))


@settings(max_examples=30, deadline=None)
@given(
    keys=st.lists(keys, min_size=1, max_size=8, unique=True),
    contents=st.lists(st.binary(max_size=2000), min_size=8, max_size=8),
    labels=st.lists(st.integers(0, 999_999), min_size=8, max_size=8),
    kinds=st.lists(st.tuples(st.sampled_from(sorted(IMAGES)), st.booleans(), st.booleans()), min_size=8, max_size=8),
    folder=st.sampled_from(["", "./", "a.b/c/"]),
    format=st.sampled_from([tarfile.GNU_FORMAT, tarfile.PAX_FORMAT]),
)
def test_index_matches_tarfile(tmp_path_factory, keys, contents, labels, kinds, folder, format):
    members = []
    for key, content, label, (extension, in_json, label_first) in zip(keys, contents, labels, kinds, strict=False):
        image = (f"{folder}{key}.{extension.upper() if in_json else extension}", content)
        sidecar = (f"{folder}{key}.json", json.dumps({"label": label}).encode())
        if not in_json:
            sidecar = (f"{folder}{key}.cls", f"{label}\n".encode())
        members += [sidecar, image] if label_first else [image, sidecar]
    path = write_tar(tmp_path_factory.mktemp("tar") / "x.tar", members, format)
    with tarfile.open(path) as tar:
        images = [m for m in tar.getmembers() if m.name.rpartition(".")[2].lower() in IMAGES]
        extracted = [tar.extractfile(member).read() for member in images]
    assert _scanned(path) == list(zip(extracted, labels, strict=False))


def test_keys_may_contain_dots(tmp_path):
    members = [
        *sample("frame_0.5", 1),
        *sample("frame_0.25", 2),
        ("frame_0.5.seg.png", b"x"),
        ("frame_0.5.x.cls", b"9"),
    ]
    members += [*sample("d.e/a", 3), *sample("d.e/a.1", 4), ("d.e/a.1.json", b"{}"), ("d.e/a.2.png", b"a part of a")]
    path = write_tar(tmp_path / "x.tar", members)
    assert _scanned(path) == [(jpeg(label), label) for label in (1, 2, 3, 4)]


def test_label_may_have_a_byte_order_mark(tmp_path):
    path = write_tar(tmp_path / "x.tar", [("a.jpg", b"x"), ("a.cls", b"\xef\xbb\xbf7\r\n")])
    assert [label for _, label in _scanned(path)] == [7]


def test_cls_takes_precedence_over_json(tmp_path):
    path = write_tar(tmp_path / "x.tar", [*sample("a", 3), ("a.json", b'{"label": 4}')])
    assert [label for _, label in _scanned(path)] == [3]


def test_other_members_are_ignored_and_never_unpickled(tmp_path):
    bomb = b"cos\nsystem\n(S'exit 1'\ntR."
    others = [(f"a.{extension}", bomb) for extension in ("pyd", "pkl", "pickle", "pt", "npy", "txt", "seg.png")]
    folder = tarfile.TarInfo("folder")
    folder.type = tarfile.DIRTYPE
    path = write_tar(tmp_path / "x.tar", [folder, *others, *sample("a", 1), ("._a.jpg", b""), (".hidden.jpg", b"")])
    assert _scanned(path) == [(jpeg(1), 1)]
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(pickle, "loads", None)
        patch.setattr(pickle, "load", None)
        assert len(_scanned(path)) == 1


def _special(name, kind, target=""):
    info = tarfile.TarInfo(name)
    info.type, info.linkname = kind, target
    return info


@pytest.mark.parametrize(
    ("members", "message"),
    [
        ([_special("b.jpg", tarfile.SYMTYPE, "/etc/passwd")], "b.jpg: a link, a device or a sparse file"),
        ([_special("b.jpg", tarfile.LNKTYPE, "a.jpg")], "b.jpg: a link, a device or a sparse file"),
        ([_special("b", tarfile.CHRTYPE)], "b: a link, a device or a sparse file"),
        ([_special("b", tarfile.FIFOTYPE)], "b: a link, a device or a sparse file"),
        ([("/b.jpg", b"x")], "/b.jpg: a path outside the archive"),
        ([("c/../../b.jpg", b"x")], "c/../../b.jpg: a path outside the archive"),
        (sample("a", 1), "a.jpg: a duplicate name"),
        ([("a.png", b"x")], "a.png: a second image with the same key"),
        ([("b.jpg", b"x")], "b: an image without a label"),
        ([("b.1.jpg", b"x")], "b.1: an image without a label"),
        ([("b.left.jpg", b"x"), ("b.cls", b"1")], "b.left: an image without a label"),
        ([("b.cls", b"1")], "b: a label without an image"),
        ([("b.jpg", b"x"), ("b.cls", b"-1")], "b.cls: '-1' is not a label"),
        ([("b.jpg", b"x"), ("b.cls", b"one")], "b.cls: 'one' is not a label"),
        ([("b.jpg", b"x"), ("b.cls", b"1.0")], "b.cls: '1.0' is not a label"),
        ([("b.jpg", b"x"), ("b.cls", b"")], "b.cls: '' is not a label"),
        ([("b.jpg", b"x"), ("b.cls", b"99999999")], "b.cls: '99999999' is not a label"),
        ([("b.jpg", b"x"), ("b.json", b'{"label": "cat"}')], "b.json: '\"cat\"' is not a label"),
        ([("b.jpg", b"x"), ("b.json", b'{"label": true}')], "b.json: 'true' is not a label"),
        ([("b.jpg", b"x"), ("b.json", b"{")], "b.json: not a JSON object with a 'label'"),
        ([("b.jpg", b"x"), ("b.json", b"[1]")], "b.json: not a JSON object with a 'label'"),
        ([("b.jpg.gz", b"x")], "b.jpg.gz: a compressed file or an archive"),
        ([("b.tar", b"x")], "b.tar: a compressed file or an archive"),
    ],
)
def test_invalid_member_is_rejected(tmp_path, members, message):
    path = write_tar(tmp_path / "x.tar", [*sample("a", 0), *members])
    with pytest.raises(DataError) as error:
        scan(path, "place/x.tar")
    assert str(error.value).startswith("place/x.tar: ")
    assert message in str(error.value)


@pytest.mark.parametrize("kept", [0, 1, 511, 512, 700, 1024, 1536, 1700, 2048, 2559, 3000, 3072, 3500])
def test_truncated_shard_is_rejected(tmp_path, kept):
    whole = write_tar(tmp_path / "x.tar", [*sample("a", 0), *sample("b", 1)]).read_bytes()
    assert len(whole) > 5000
    cut = tmp_path / "cut.tar"
    cut.write_bytes(whole[:kept])
    with pytest.raises(DataError, match="is truncated"):
        scan(cut, "cut.tar")


def test_truncation_in_the_last_member_or_the_end_is_noticed(tmp_path):
    path = write_tar(tmp_path / "x.tar", sample("a", 0))
    whole = path.read_bytes()
    end = len(whole.rstrip(b"\0"))
    for kept in range(512, -(-end // 512) * 512 + 1024, 128):
        path.write_bytes(whole[:kept])
        with pytest.raises(DataError, match=r"x\.tar is truncated"):
            scan(path, "x.tar")
    path.write_bytes(whole[: -(-end // 512) * 512 + 1024])
    assert len(_scanned(path)) == 1


def test_damaged_header_is_not_taken_for_the_end(tmp_path):
    path = write_tar(tmp_path / "x.tar", [*sample("a", 0), *sample("b", 1)])
    content = bytearray(path.read_bytes())
    content[content.index(b"b.jpg") + 150] ^= 0xFF
    path.write_bytes(content)
    with pytest.raises(DataError, match=r"x\.tar is damaged after a\.cls"):
        scan(path, "x.tar")


def test_concatenated_archives_are_rejected(tmp_path):
    path = write_tar(tmp_path / "x.tar", sample("a", 0))
    path.write_bytes(path.read_bytes() + write_tar(tmp_path / "y.tar", sample("b", 1)).read_bytes())
    with pytest.raises(DataError, match=r"after a\.cls"):
        scan(path, "x.tar")


def test_compressed_shard_or_one_without_images_is_rejected(tmp_path):
    path = write_tar(tmp_path / "x.tar", [("a.txt", b"x")])
    with pytest.raises(DataError, match=r"x\.tar contains no images"):
        scan(path, "x.tar")
    path.write_bytes(gzip.compress(path.read_bytes()))
    with pytest.raises(DataError, match=r"x\.tar is compressed \(gzip\)"):
        scan(path, "x.tar")


@settings(max_examples=80, deadline=None)
@given(damage=st.lists(st.tuples(st.integers(0, 1 << 16), st.integers(0, 255)), min_size=1, max_size=20))
def test_damage_raises_data_error_or_gives_an_index_within_the_file(tmp_path_factory, damage):
    path = write_tar(tmp_path_factory.mktemp("tar") / "x.tar", [*sample("a", 0), *sample("b" * 150, 1)])
    content = bytearray(path.read_bytes())
    for at, value in damage:
        content[at % len(content)] = value
    path.write_bytes(content)
    message = "x.tar"
    try:
        entries = scan(path, "x.tar")["entries"]
        assert np.all(entries["offset"] + entries["size"] <= len(content))
    except DataError as error:
        message = str(error)
    assert "x.tar" in message
