import ctypes
import pickle
import sys

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from fvit.data.formats import turbo
from fvit.data.formats.decode import Decoder
from fvit.data.images import BadImage
from tests.data.pictures import SUBSAMPLINGS, jpeg, needs_turbo, photo, saved

quick = settings(deadline=None, derandomize=True, database=None, max_examples=150)
SIDES = st.integers(1, 100)


@pytest.fixture
def uncached_library():
    """`library` caches what it found."""
    turbo.library.cache_clear()
    yield
    turbo.library.cache_clear()


def boxes(width, height):
    """Any box within an image: x, y, width, height."""
    left = st.integers(0, width - 1).flatmap(lambda x: st.tuples(st.just(x), st.integers(1, width - x)))
    upper = st.integers(0, height - 1).flatmap(lambda y: st.tuples(st.just(y), st.integers(1, height - y)))
    return st.tuples(left, upper).map(lambda both: (both[0][0], both[1][0], both[0][1], both[1][1]))


def assert_crop_is_part_of_the_whole(data, box):
    x, y, width, height = box
    decoder = Decoder("turbo")
    crop = decoder(data, lambda *_: box)
    assert crop.shape == (height, width, 3)
    assert np.array_equal(crop, decoder(data)[y : y + height, x : x + width])


@needs_turbo
@quick
@given(subsampling=st.sampled_from(SUBSAMPLINGS), width=SIDES, height=SIDES, draw=st.data())
def test_crop_decode_is_part_of_a_full_decode(subsampling, width, height, draw):
    assert_crop_is_part_of_the_whole(jpeg(width, height, subsampling, quality=95), draw.draw(boxes(width, height)))


@needs_turbo
@quick
@given(
    progressive=st.booleans(),
    subsampling=st.sampled_from(["4:4:4", "4:2:2", "4:2:0"]),
    restart=st.integers(0, 3),
    width=SIDES,
    height=SIDES,
    draw=st.data(),
)
def test_crop_decode_of_progressive_files_and_restart_markers(progressive, subsampling, restart, width, height, draw):
    options = dict(progressive=progressive, subsampling=subsampling, restart_marker_blocks=restart)
    assert_crop_is_part_of_the_whole(saved(photo(width, height), **options), draw.draw(boxes(width, height)))


@needs_turbo
@pytest.mark.parametrize("factors", [0x11, 0x21, 0x12, 0x22, 0x41, 0x44])
def test_sampling_factors_of_one_component_are_ignored(factors):
    data = bytearray(jpeg(131, 77, "Gray"))
    data[data.index(b"\xff\xc0") + 11] = factors
    assert np.array_equal(Decoder("turbo")(bytes(data)), Decoder("pil")(jpeg(131, 77, "Gray")))
    for box in ((0, 0, 1, 1), (40, 30, 20, 10), (100, 70, 31, 7), (130, 76, 1, 1)):
        assert_crop_is_part_of_the_whole(bytes(data), box)


@needs_turbo
@pytest.mark.parametrize("kept", [20, 100, 200, 400, 600, 2000])
def test_damaged_image_is_an_error_in_words(kept):
    for box in (None, (4, 4, 30, 20)):
        with pytest.raises(ValueError, match=r"[a-z]{4}"):
            turbo.decode(jpeg()[:kept], box, 16)


@needs_turbo
def test_image_without_tables_is_not_decoded_with_those_of_the_one_before():
    data, tables = jpeg(), b""
    start = data.index(b"\xff\xdb")
    length = 2 + int.from_bytes(data[start + 2 : start + 4])
    tables, data = data[start : start + length], data[:start] + data[start + length :]
    assert tables[:2] == b"\xff\xdb"
    turbo.decode(jpeg(), None, 16)
    for box in (None, (4, 4, 30, 20)):
        with pytest.raises(ValueError, match="Quantization table"):
            turbo.decode(data, box, 16)


@needs_turbo
@pytest.mark.parametrize("box", [(70, 0, 20, 10), (0, 50, 10, 20), (90, 0, 5, 5), (0, 70, 5, 5)])
def test_crop_outside_the_image_is_rejected_or_cut(box):
    """It never returns or writes memory outside the image."""
    try:
        pixels = Decoder("turbo")(jpeg(80, 60), lambda *_: box)
    except (BadImage, ValueError):
        return
    x, y, width, height = box
    assert np.array_equal(pixels, Decoder("pil")(jpeg(80, 60))[y : y + height, x : x + width])


@needs_turbo
def test_decoder_can_be_sent_to_a_spawned_worker():
    decoder = pickle.loads(pickle.dumps(Decoder("turbo")))
    assert np.array_equal(decoder(jpeg()), Decoder("turbo")(jpeg()))


@pytest.mark.usefixtures("uncached_library")
def test_missing_or_invalid_library(monkeypatch, tmp_path):
    (tmp_path / "lib").mkdir()
    (tmp_path / "lib" / "libturbojpeg.so.0").write_bytes(b"not a library")
    monkeypatch.setattr(sys, "prefix", str(tmp_path))
    monkeypatch.setattr(ctypes.util, "find_library", lambda name: None)
    assert turbo.library() is None


@pytest.mark.usefixtures("uncached_library")
def test_library_of_version_2_is_skipped(monkeypatch, tmp_path):
    """Like every other library, it lacks the functions whose names start with tj3."""
    monkeypatch.setattr(sys, "prefix", str(tmp_path))
    monkeypatch.setattr(ctypes.util, "find_library", lambda name: None if name == "turbojpeg" else "")
    assert turbo.library() is None
    monkeypatch.setattr(ctypes.util, "find_library", lambda name: real_library_without_tj3())
    assert turbo.library() is None


def real_library_without_tj3():
    import _ctypes

    return _ctypes.__file__
