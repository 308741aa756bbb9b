"""Damaged images raise BadImage with a readable reason, and are never filled in silently."""

import random
import re
import subprocess
import sys
from functools import cache
from pathlib import Path

import numpy as np
import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from fvit.data.formats.decode import choose
from fvit.data.formats.turbo import library
from fvit.data.images import BadImage
from fvit.data.transforms.image import TrainTransform
from tests.data.pictures import DECODERS, jpeg, needs_turbo, photo, read_by_pil, saved, specimen

quick = settings(deadline=None, derandomize=True, database=None, max_examples=60)

JPEGS = ("subsampling 420", "subsampling Gray", "progressive", "restart markers", "rotated by EXIF", "CMYK")
SMALL = (
    jpeg(40, 30),
    jpeg(33, 17, "Gray"),
    jpeg(20, 20, "411"),
    saved(photo(30, 20), progressive=True),
    saved(photo(30, 20), restart_marker_rows=1),
    saved(photo(20, 20), mode="CMYK"),
    saved(photo(12, 12), "PNG"),
    saved(photo(12, 12), "WEBP"),
)


def top(width, height):
    """The upper left, where a crop decode ends long before the file does."""
    return 0, 0, (width + 1) // 2, (height + 3) // 4


def assert_rejected(decoder, data, box=None):
    with pytest.raises(BadImage) as caught:
        decoder(data, box)
    reason = str(caught.value)
    assert re.search("[A-Za-z]{4,} [A-Za-z]{2,}", reason), "words"
    assert " at 0x" not in reason, "the same damage always has the same reason"


# Truncated


@pytest.mark.parametrize("box", [None, top], ids=["whole", "top"])
@pytest.mark.parametrize("decoder", DECODERS)
@quick
@given(name=st.sampled_from(JPEGS), cut=st.floats(0, 1, exclude_max=True))
def test_truncated_jpeg_is_rejected_even_if_the_crop_is_complete(decoder, box, name, cut):
    assert_truncation_is_rejected(decoder, name, int(cut * len(specimen(name))), box)


@pytest.mark.parametrize("box", [None, top], ids=["whole", "top"])
@pytest.mark.parametrize("name", JPEGS)
@pytest.mark.parametrize("decoder", DECODERS)
def test_jpeg_without_its_last_bytes_is_rejected(decoder, name, box):
    for missing in range(1, 20):
        assert_truncation_is_rejected(decoder, name, len(specimen(name)) - missing, box)


def assert_truncation_is_rejected(decoder, name, kept, box):
    data = specimen(name)
    try:
        pixels = choose(decoder)(data[:kept], box)
    except BadImage:
        assert_rejected(choose(decoder), data[:kept], box)
        return
    assert kept >= len(data) - 2, "PIL does not need the end marker once it has every pixel"
    assert np.array_equal(pixels, choose(decoder)(data, box))


@pytest.mark.parametrize("name", ["PNG", "WebP"])
@quick
@given(cut=st.floats(0, 1, exclude_max=True))
@example(cut=0.999)
def test_other_truncated_files_are_rejected_or_complete(name, cut):
    """The last bytes of a PNG are checksums, not pixels."""
    data = specimen(name)
    data, whole = data[: int(cut * len(data))], choose("pil")(data)
    try:
        pixels = choose("pil")(data)
    except BadImage:
        return
    assert np.array_equal(pixels, whole)
    assert name == "PNG"
    assert len(data) >= len(specimen(name)) - 21


# Flipped bits


@cache
def flips_that_libjpeg_notices() -> list[tuple[int, bytes]]:
    """JPEGs with a flipped bit in the entropy-coded data that libjpeg notices, and its relative position."""
    data, rng, found = jpeg(160, 120), random.Random(0), []
    start, judge = data.index(b"\xff\xda") + 14, choose("simplejpeg")
    while len(found) < 200:
        at, damaged = rng.randrange(start, len(data) - 2), bytearray(data)
        damaged[at] ^= 1 << rng.randrange(8)
        try:
            judge(bytes(damaged))
        except BadImage:
            found.append(((at - start) / (len(data) - start), bytes(damaged)))
    return found


@pytest.mark.parametrize(
    ("decoder", "box"),
    [("simplejpeg", top), ("pil", top), pytest.param("turbo", None, marks=needs_turbo)],
)
def test_damage_that_libjpeg_notices_is_rejected_by_full_decodes(decoder, box):
    for _, damaged in flips_that_libjpeg_notices():
        assert_rejected(choose(decoder), damaged, box)


@needs_turbo
def test_crop_decode_ignores_damage_below_the_crop():
    pixels = choose("turbo")(jpeg(160, 120), top)
    below = [damaged for at, damaged in flips_that_libjpeg_notices() if at > 0.6]
    assert len(below) > 20
    for damaged in below:
        assert np.array_equal(choose("turbo")(damaged, top), pixels)


@needs_turbo
def test_crop_decode_shows_the_same_damage_as_pil():
    """If libjpeg only notices it further down."""
    for _, damaged in flips_that_libjpeg_notices():
        try:
            pixels = choose("turbo")(damaged, top)
        except BadImage:
            continue
        try:
            assert np.array_equal(pixels, np.asarray(read_by_pil(damaged))[: len(pixels), : pixels.shape[1]])
        except OSError:  # PIL stops at a marker further down that the damage created
            continue


# Unusual, but with every pixel


def with_revision(data: bytes, revision: bytes) -> bytes:
    at = data.index(b"JFIF\0") + 5
    return data[:at] + revision + data[at + 2 :]


PLAIN = saved(photo(), quality=90)
MANY_SCANS = specimen("progressive")
LAST_SCAN = MANY_SCANS.rindex(b"\xff\xda")
ADOBE = saved(photo(), keep_rgb=True)
RESTARTS = specimen("restart markers")
SECOND = RESTARTS.index(b"\xff\xd1")
INTACT = {
    **{
        f"JFIF {major}.{minor:02}": with_revision(PLAIN, bytes((major, minor)))
        for major, minor in ((0, 0), (2, 0), (9, 9))
    },
    **{f"{len(extra)} bytes before the end": PLAIN[:-2] + extra + PLAIN[-2:] for extra in (b"\0" * 9, b"abc" * 99)},
    "bytes before a scan": MANY_SCANS[:LAST_SCAN] + b"\0\0" + MANY_SCANS[LAST_SCAN:],
    "bytes before a restart marker": RESTARTS[:SECOND] + b"\0\0" + RESTARTS[SECOND:],
    "both": with_revision(PLAIN[:-2] + b"\0" * 9 + PLAIN[-2:], b"\2\0"),
    "unknown colour transform of Adobe": ADOBE.replace(b"Adobe\0d\0\0\0\0\0", b"Adobe\0d\0\0\0\0\7"),
    "an ICC profile cut short": PLAIN[:2] + b"\xff\xe2\0\x0eICC_PROFILE\0" + PLAIN[2:],
}


@pytest.mark.parametrize("box", [None, top], ids=["whole", "top"])
@pytest.mark.parametrize("name", INTACT)
@pytest.mark.parametrize("decoder", DECODERS)
def test_unusual_image_is_decoded(decoder, name, box):
    plain = {"bytes before a scan": MANY_SCANS, "bytes before a restart marker": RESTARTS}.get(name, PLAIN)
    pixels = choose(decoder)(INTACT[name], box)
    if "Adobe" not in name:  # which gives other colours
        assert np.array_equal(pixels, choose(decoder)(plain, box))
    if "ICC" not in name:  # which PIL cannot parse
        assert np.array_equal(pixels, np.asarray(read_by_pil(INTACT[name]))[: len(pixels), : pixels.shape[1]])


@pytest.mark.parametrize("decoder", DECODERS)
def test_unusual_image_may_be_damaged_as_well(decoder):
    half = PLAIN[: len(PLAIN) // 2]
    assert_rejected(choose(decoder), half + b"\xff\xd9")
    assert_rejected(choose(decoder), with_revision(half + b"\xff\xd9", b"\2\0"))
    for instead in (b"", b"\0\0", b"\0" * 9):
        assert_rejected(choose(decoder), RESTARTS[:SECOND] + instead + RESTARTS[SECOND + 2 :])


def test_crop_is_drawn_once_whatever_the_decoder_does():
    for name in DECODERS[1:] if library() is None else ("turbo", *DECODERS[1:]):
        drawn = []
        choose(name)(INTACT["both"], lambda *size, drawn=drawn: drawn.append(size) or (0, 0, 4, 4))
        assert drawn == [(80, 60)]


# Not an image


NO_IMAGES = {
    "nothing": b"",
    "zeros": bytes(1000),
    "ones": b"\xff" * 1000,
    "a web page": b"<!DOCTYPE html><html><body>404 Not Found</body></html>",
    "text": b"n01440764 n01443537\n" * 20,
    "the start of a JPEG": b"\xff\xd8",
    "half a header": jpeg()[:160],
    "a header alone": jpeg()[: jpeg().index(b"\xff\xda")],
    "noise": random.Random(0).randbytes(5000),
    "noise in a JPEG's frame": b"\xff\xd8" + random.Random(0).randbytes(5000) + b"\xff\xd9",
    "a JPEG without its start": jpeg()[2:],
    "a PNG's signature": b"\x89PNG\r\n\x1a\n",
    "a WebP's signature": b"RIFF\x00\x10\x00\x00WEBPVP8 ",
    "an archive": b"PK\x03\x04" + bytes(100),
}


@pytest.mark.parametrize("box", [None, top], ids=["whole", "top"])
@pytest.mark.parametrize("name", NO_IMAGES)
@pytest.mark.parametrize("decoder", DECODERS)
def test_not_an_image_is_rejected(decoder, name, box):
    assert_rejected(choose(decoder), NO_IMAGES[name], box)


@pytest.mark.parametrize(("width", "height"), [(0, 30), (30, 0), (0, 0), (60000, 60000)])
@pytest.mark.parametrize("decoder", DECODERS)
def test_impossible_size_is_rejected(decoder, width, height):
    """Without a division by zero or ten gigabytes of memory."""
    data = jpeg(40, 30)
    at = data.index(b"\xff\xc0") + 5
    data = data[:at] + height.to_bytes(2) + width.to_bytes(2) + data[at + 4 :]
    assert_rejected(choose(decoder), data)
    with pytest.raises(BadImage):
        TrainTransform(choose(decoder), 16)(data, random.Random(0))


# Random damage


def mutant(rng: random.Random) -> bytes:
    """A small image with a few bytes changed, deleted or inserted, most of them in its header."""
    data = bytearray(rng.choice(SMALL))
    for _ in range(rng.randint(1, 4)):
        at = rng.randrange(min(len(data), rng.choice((30, 250, 10**6))))
        kind = rng.random()
        if kind < 0.8:
            data[at] = rng.choice((0, 255, rng.randrange(256), data[at] ^ (1 << rng.randrange(8))))
        elif kind < 0.9:
            del data[at : at + rng.randint(1, 20)]
        else:
            data[at:at] = rng.randbytes(rng.randint(1, 20))
    return bytes(data)


def verdict(decoder: str, data: bytes) -> np.ndarray | None:
    try:
        return choose(decoder)(data)
    except BadImage:
        return None


@pytest.mark.filterwarnings("ignore::UserWarning", "ignore::PIL.Image.DecompressionBombWarning")
@settings(quick, max_examples=250)
@given(seed=st.integers(0, 2**32))
def test_decoders_accept_the_same_files(seed):
    data = mutant(random.Random(seed))
    expected = verdict("pil", data)
    for decoder in ("simplejpeg", "turbo") if library() else ("simplejpeg",):
        pixels = verdict(decoder, data)
        assert (pixels is None) == (expected is None)
        assert pixels is None or np.abs(pixels.astype(int) - expected).max() <= 2


def survive(decoder: str, count: int) -> None:
    """Decode mutants in full and in part, and an intact image after each of them."""
    rng, decode = random.Random(7), choose(decoder)
    whole = decode(SMALL[0])
    transform, reasons = TrainTransform(decode, 16), set()
    for _ in range(count):
        data = mutant(rng)
        for use in (decode, lambda data: decode(data, top), lambda data: transform(data, rng)):
            try:
                assert use(data).ndim == 3
            except BadImage as error:
                reasons.add(str(error))
        assert np.array_equal(decode(SMALL[0]), whole)
    assert len(reasons) > 5
    assert "" not in reasons


@pytest.mark.filterwarnings("ignore::UserWarning", "ignore::PIL.Image.DecompressionBombWarning")
@pytest.mark.parametrize("decoder", ["simplejpeg", "pil"])
def test_mutants_give_pixels_or_a_reason(decoder):
    survive(decoder, 700)


@pytest.mark.slow
@needs_turbo
def test_mutants_do_not_crash_turbo():
    """In another process, which a fault in a ctypes library would kill."""
    code = "from tests.data.test_damage import survive; survive('turbo', 4000)"
    root = Path(__file__).parents[2]
    ended = subprocess.run([sys.executable, "-c", code], cwd=root, capture_output=True, text=True, timeout=100)
    assert ended.returncode == 0, ended.stderr
