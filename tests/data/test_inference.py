import pytest
import torch

from fvit.data import ImageDataModule
from fvit.data.images import DataError
from fvit.data.inference import display_names, find_images, inference_batches
from tests.data.pictures import jpeg, photo, saved

CPU = torch.device("cpu")


@pytest.fixture
def photos(tmp_path):
    """An ImageFolder tree of seven images, of which the third is truncated."""
    for split in ("train", "val"):
        (tmp_path / split / "a").mkdir(parents=True)
        for index in range(7):
            content = jpeg(50 + index, 40, seed=index)
            (tmp_path / split / "a" / f"{index}.jpg").write_bytes(content[:-300] if index == 2 else content)
    return tmp_path


@pytest.mark.parametrize("num_workers", [0, 2])
def test_images_match_validation_and_damaged_ones_are_reported(photos, num_workers):
    options = dict(img_size=32, crop_pct=0.9, interpolation="bilinear", mean=(0.4, 0.5, 0.6), std=(0.2, 0.3, 0.4))
    data = ImageDataModule("folder", batch_size=3, root=photos, **options)
    expected = [batch.images for batch in data.val_dataloader()]
    found = list(inference_batches(find_images(photos / "val"), data.hparams, 3, num_workers, CPU))
    assert [len(batch.files) for batch in found] == [2, 3, 1]
    assert [file[-5:] for batch in found for file in batch.files] == [f"{i}.jpg" for i in (0, 1, 3, 4, 5, 6)]
    for batch, pixels in zip(found, expected, strict=True):
        assert torch.equal(batch.pixels, pixels)
        mean, std = (torch.tensor(options[key]).view(1, 1, 1, 3) for key in ("mean", "std"))
        normalised = ((pixels / 255 - mean) / std).permute(0, 3, 1, 2)
        torch.testing.assert_close(batch.images, normalised, rtol=1e-5, atol=1e-6)
    [fault] = [fault for batch in found for fault in batch.faults]
    assert fault.where == str(photos / "val" / "a" / "2.jpg")
    assert fault.reason


def test_batch_of_damaged_images_is_empty(tmp_path):
    (tmp_path / "a.jpg").write_bytes(b"")
    trained = dict(img_size=8, crop_pct=1, interpolation="bicubic", mean=(0,), std=(1,))
    [batch] = inference_batches(find_images(tmp_path), trained, 4, 0, CPU)
    assert batch.files == []
    assert len(batch.faults) == 1


@pytest.fixture
def folder(tmp_path):
    for name in ("b.jpg", "a.JPEG", "notes.txt", ".hidden.jpg", "sub/c.png", "sub/deep/d.webp", ".cache/e.jpg"):
        path = tmp_path / "photos" / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(jpeg())
    return tmp_path / "photos"


def named(images):
    assert not images.labels.any()
    return [images.locate(index) for index in range(len(images))]


def test_folder_is_searched_recursively(folder):
    expected = ["a.JPEG", "b.jpg", "sub/c.png", "sub/deep/d.webp"]
    assert named(find_images(folder)) == [str(folder / name) for name in expected]


def test_file_may_have_any_name(folder):
    images = find_images(folder / "notes.txt")
    assert named(images) == [str(folder / "notes.txt")]
    assert images.read(0) == jpeg()


@pytest.mark.parametrize(
    ("pattern", "names"),
    [
        ("*", ["a.JPEG", "b.jpg"]),
        ("*/*", ["sub/c.png"]),
        ("**", ["a.JPEG", "b.jpg", "sub/c.png", "sub/deep/d.webp"]),
        ("**/deep/**/*.webp", ["sub/deep/d.webp"]),
        ("sub/**/c.p?g", ["sub/c.png"]),
        ("*.jpg", ["b.jpg"]),
        ("**/*", ["a.JPEG", "b.jpg", "sub/c.png", "sub/deep/d.webp"]),
        ("s*/*.png", ["sub/c.png"]),
        ("sub/[a-c].*", ["sub/c.png"]),
    ],
)
def test_pattern(folder, pattern, names):
    images = find_images(f"{folder}/{pattern}")
    assert named(images) == [str(folder / name) for name in names]
    assert images.read(0) == jpeg()


@pytest.mark.parametrize("name", ["a,b.jpg", "c.AVIF"])
def test_unusual_names_and_avif(tmp_path, name):
    (tmp_path / name).write_bytes(saved(photo(), "AVIF") if name.endswith("AVIF") else jpeg())
    trained = dict(img_size=8, crop_pct=1, interpolation="bicubic", mean=(0,), std=(1,))
    for where in (tmp_path, tmp_path / name, tmp_path / f"{name[:-1]}*"):
        [batch] = inference_batches(find_images(where), trained, 4, 0, CPU)
        assert (batch.files, batch.faults) == ([str(tmp_path / name)], ())


def test_url_is_one_image(folder, server):
    (server.folder / "a, b.jpg").write_bytes(jpeg())
    url = f"{server.url}/a,%20b.jpg?secret=1"
    images = find_images(url)
    assert images.read(0) == jpeg()
    assert (images.locate(0), images.root) == (f"{server.url}/a,%20b.jpg", server.url)
    assert find_images((server.folder / "a, b.jpg").as_uri()).read(0) == jpeg()
    with pytest.raises(DataError, match=rf"images={server.url}/gone\.jpg could not be fetched: .*404"):
        find_images(f"{server.url}/gone.jpg")


@pytest.mark.parametrize(
    ("url", "message"),
    [
        ("http://127.0.0.1:1/a.jpg", r"could not be fetched: .*refused"),
        ("http://", r"images=http:// could not be fetched: "),
        ("s3://bucket/a.jpg", r"s3:// cannot be read here; fetch the images, and name their folder"),
    ],
)
def test_url_that_cannot_be_fetched(url, message):
    with pytest.raises(ValueError, match=message):
        find_images(url)


def test_relative_pattern(folder, monkeypatch):
    monkeypatch.chdir(folder)
    assert named(find_images("*.jpg")) == ["b.jpg"]
    assert named(find_images("sub/*")) == ["sub/c.png"]


@pytest.mark.parametrize(
    ("where", "message"),
    [
        ("photo", r"photo does not exist, did you mean .*photos\?"),
        ("photo/*.gif", r"\*.gif matches no image files"),
        ("photos/*.gif", r"\*.gif matches no image files"),
        ("empty", "empty contains no images"),
    ],
)
def test_nothing_found_is_an_error(folder, tmp_path, where, message):
    (tmp_path / "empty").mkdir()
    with pytest.raises(FileNotFoundError, match=message):
        find_images(tmp_path / where)


def test_outputs_without_a_name_are_numbered():
    assert display_names(["cat", "dog"], 2) == ["cat", "dog"]
    assert display_names(["cat", "dog"], 4) == ["cat", "dog", "class 2", "class 3"]
    assert display_names(None, 2) == ["class 0", "class 1"]


def test_wordnet_ids_get_english_words():
    assert display_names(["n01440764", "n99999999"], 2) == ["n01440764 tench", "n99999999"]
    assert display_names(["n01440764", "cat"], 2) == ["n01440764", "cat"]
