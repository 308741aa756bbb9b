import pytest

from fvit.data.formats.find import find_images
from tests.data.pictures import jpeg


@pytest.fixture
def photos(tmp_path):
    for name in ("b.jpg", "a.JPEG", "notes.txt", ".hidden.jpg", "sub/c.png", "sub/deep/d.webp", ".cache/e.jpg"):
        path = tmp_path / "photos" / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(jpeg())
    return tmp_path / "photos"


def named(images):
    assert not images.labels.any()
    return [images.locate(index) for index in range(len(images))]


def test_a_folder_gives_what_is_below_it(photos):
    expected = ["a.JPEG", "b.jpg", "sub/c.png", "sub/deep/d.webp"]
    assert named(find_images(photos)) == [str(photos / name) for name in expected]


def test_a_file_is_taken_whatever_it_is_called(photos):
    images = find_images(photos / "notes.txt")
    assert named(images) == [str(photos / "notes.txt")]
    assert images.read(0) == jpeg()


@pytest.mark.parametrize(
    ("pattern", "names"),
    [
        ("*", ["a.JPEG", "b.jpg"]),
        ("*.jpg", ["b.jpg"]),
        ("**/*", ["a.JPEG", "b.jpg", "sub/c.png", "sub/deep/d.webp"]),
        ("s*/*.png", ["sub/c.png"]),
        ("sub/[a-c].*", ["sub/c.png"]),
    ],
)
def test_a_pattern_gives_the_images_that_it_matches(photos, pattern, names):
    images = find_images(f"{photos}/{pattern}")
    assert named(images) == [str(photos / name) for name in names]
    assert images.read(0) == jpeg()


def test_a_pattern_may_be_relative(photos, monkeypatch):
    monkeypatch.chdir(photos)
    assert named(find_images("*.jpg")) == ["b.jpg"]
    assert named(find_images("sub/*")) == ["sub/c.png"]


@pytest.mark.parametrize(
    ("where", "message"),
    [
        ("photo", r"photo does not exist, did you mean .*photos\?"),
        ("photos/*.gif", r"\*.gif matches no file with the name of an image"),
        ("empty", "empty holds no images"),
    ],
)
def test_where_nothing_is_says_so(photos, tmp_path, where, message):
    (tmp_path / "empty").mkdir()
    with pytest.raises(FileNotFoundError, match=message):
        find_images(tmp_path / where)
