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
    """(bytes, label) of each image, read where the index says."""
    content = path.read_bytes()
    return [(content[offset : offset + size], label) for offset, size, label, _ in scan(path, path.name).tolist()]


words = st.text(st.characters(categories=["L", "N"], exclude_characters="./"), min_size=1, max_size=120)


@settings(max_examples=60, deadline=None)
@given(
    keys=st.lists(words, min_size=1, max_size=8, unique=True),
    contents=st.lists(st.binary(max_size=2000), min_size=8, max_size=8),
    labels=st.lists(st.integers(0, 999_999), min_size=8, max_size=8),
    kinds=st.lists(st.tuples(st.sampled_from(sorted(IMAGES)), st.booleans(), st.booleans()), min_size=8, max_size=8),
    folder=st.sampled_from(["", "./", "a.b/c/"]),
    format=st.sampled_from([tarfile.GNU_FORMAT, tarfile.PAX_FORMAT]),
)
def test_the_index_is_what_tarfile_extracts(tmp_path_factory, keys, contents, labels, kinds, folder, format):
    members = []
    for key, content, label, (extension, in_json, label_first) in zip(keys, contents, labels, kinds, strict=False):
        image = (f"{folder}{key}.{extension.upper() if in_json else extension}", content)
        told = (f"{folder}{key}.json", json.dumps({"label": label}).encode())
        if not in_json:
            told = (f"{folder}{key}.cls", f"{label}\n".encode())
        members += [told, image] if label_first else [image, told]
    path = write_tar(tmp_path_factory.mktemp("tar") / "x.tar", members, format)
    with tarfile.open(path) as tar:
        images = [m for m in tar.getmembers() if m.name.rpartition(".")[2].lower() in IMAGES]
        extracted = [tar.extractfile(member).read() for member in images]
    assert _scanned(path) == list(zip(extracted, labels, strict=False))


def test_the_label_of_cls_goes_before_that_of_json(tmp_path):
    path = write_tar(tmp_path / "x.tar", [*sample("a", 3), ("a.json", b'{"label": 4}')])
    assert [label for _, label in _scanned(path)] == [3]


def test_other_members_are_passed_over_and_never_unpickled(tmp_path):
    bomb = b"cos\nsystem\n(S'exit 1'\ntR."
    others = [(f"a.{extension}", bomb) for extension in ("pyd", "pkl", "pickle", "pt", "npy", "txt", "seg.png")]
    folder = tarfile.TarInfo("folder")
    folder.type = tarfile.DIRTYPE
    path = write_tar(tmp_path / "x.tar", [folder, *others, *sample("a", 1), ("._a.jpg", b""), (".hidden.jpg", b"")])
    assert _scanned(path) == [(jpeg(1), 1)]
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(pickle, "loads", None)
        patch.setattr(pickle, "load", None)
        assert len(scan(path, "x")) == 1


def _special(name, kind, target=""):
    info = tarfile.TarInfo(name)
    info.type, info.linkname = kind, target
    return info


@pytest.mark.parametrize(
    ("members", "message"),
    [
        ([_special("b.jpg", tarfile.SYMTYPE, "/etc/passwd")], "b.jpg: a link or a device"),
        ([_special("b.jpg", tarfile.LNKTYPE, "a.jpg")], "b.jpg: a link or a device"),
        ([_special("b", tarfile.CHRTYPE)], "b: a link or a device"),
        ([_special("b", tarfile.FIFOTYPE)], "b: a link or a device"),
        ([("/b.jpg", b"x")], "/b.jpg: a name that leads outside"),
        ([("c/../../b.jpg", b"x")], "c/../../b.jpg: a name that leads outside"),
        (sample("a", 1), "a.jpg: a name that was there before"),
        ([("a.png", b"x")], "a.png: a second image of the same key"),
        ([("b.jpg", b"x")], "b: an image without a label"),
        ([("b.cls", b"1")], "b: a label without an image"),
        ([("b.jpg", b"x"), ("b.cls", b"-1")], "b.cls: '-1' is no label"),
        ([("b.jpg", b"x"), ("b.cls", b"one")], "b.cls: 'one' is no label"),
        ([("b.jpg", b"x"), ("b.cls", b"1.0")], "b.cls: '1.0' is no label"),
        ([("b.jpg", b"x"), ("b.cls", b"")], "b.cls: '' is no label"),
        ([("b.jpg", b"x"), ("b.cls", b"99999999")], "b.cls: '99999999' is no label"),
        ([("b.jpg", b"x"), ("b.json", b'{"label": "cat"}')], "b.json: '\"cat\"' is no label"),
        ([("b.jpg", b"x"), ("b.json", b'{"label": true}')], "b.json: 'true' is no label"),
        ([("b.jpg", b"x"), ("b.json", b"{")], "b.json: no JSON object with a 'label'"),
        ([("b.jpg", b"x"), ("b.json", b"[1]")], "b.json: no JSON object with a 'label'"),
        ([("b.jpg.gz", b"x")], "b.jpg.gz: an archive or a compressed file"),
        ([("b.tar", b"x")], "b.tar: an archive or a compressed file"),
    ],
)
def test_what_no_shard_should_hold_is_refused_by_name(tmp_path, members, message):
    path = write_tar(tmp_path / "x.tar", [*sample("a", 0), *members])
    with pytest.raises(DataError) as error:
        scan(path, "place/x.tar")
    assert str(error.value).startswith("place/x.tar: ")
    assert message in str(error.value)


@pytest.mark.parametrize("kept", [0, 1, 511, 512, 700, 1024, 1536, 1700, 2048, 2559, 3000, 3072, 3500])
def test_a_cut_anywhere_is_noticed(tmp_path, kept):
    whole = write_tar(tmp_path / "x.tar", [*sample("a", 0), *sample("b", 1)]).read_bytes()
    assert len(whole) > 5000
    cut = tmp_path / "cut.tar"
    cut.write_bytes(whole[:kept])
    with pytest.raises(DataError, match="cut"):
        scan(cut, "cut.tar")


def test_a_cut_within_the_last_member_or_the_end_is_noticed(tmp_path):
    path = write_tar(tmp_path / "x.tar", sample("a", 0))
    whole = path.read_bytes()
    end = len(whole.rstrip(b"\0"))
    for kept in range(512, -(-end // 512) * 512 + 1024, 128):
        path.write_bytes(whole[:kept])
        with pytest.raises(DataError, match=r"x\.tar is cut"):
            scan(path, "x.tar")
    path.write_bytes(whole[: -(-end // 512) * 512 + 1024])
    assert len(scan(path, "x.tar")) == 1


def test_a_damaged_header_is_no_end(tmp_path):
    path = write_tar(tmp_path / "x.tar", [*sample("a", 0), *sample("b", 1)])
    content = bytearray(path.read_bytes())
    content[content.index(b"b.jpg") + 150] ^= 0xFF
    path.write_bytes(content)
    with pytest.raises(DataError, match=r"x\.tar is damaged after a\.cls"):
        scan(path, "x.tar")


def test_two_archives_in_one_are_refused(tmp_path):
    path = write_tar(tmp_path / "x.tar", sample("a", 0))
    path.write_bytes(path.read_bytes() + write_tar(tmp_path / "y.tar", sample("b", 1)).read_bytes())
    with pytest.raises(DataError, match=r"after a\.cls"):
        scan(path, "x.tar")


def test_a_compressed_shard_and_one_without_images_are_refused(tmp_path):
    path = write_tar(tmp_path / "x.tar", [("a.txt", b"x")])
    with pytest.raises(DataError, match=r"x\.tar holds no images"):
        scan(path, "x.tar")
    path.write_bytes(gzip.compress(path.read_bytes()))
    with pytest.raises(DataError, match=r"x\.tar is compressed \(gzip\)"):
        scan(path, "x.tar")


@settings(max_examples=150, deadline=None)
@given(damage=st.lists(st.tuples(st.integers(0, 1 << 16), st.integers(0, 255)), min_size=1, max_size=20))
def test_noise_in_a_shard_ends_in_a_message_or_in_an_index_within_it(tmp_path_factory, damage):
    path = write_tar(tmp_path_factory.mktemp("tar") / "x.tar", [*sample("a", 0), *sample("b" * 150, 1)])
    content = bytearray(path.read_bytes())
    for at, value in damage:
        content[at % len(content)] = value
    path.write_bytes(content)
    try:
        entries = scan(path, "x.tar")
    except DataError as error:
        told = str(error)
    else:
        told = "x.tar" if np.all(entries["offset"] + entries["size"] <= len(content)) else "outside"
    assert "x.tar" in told
