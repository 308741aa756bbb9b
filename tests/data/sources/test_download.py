import hashlib
import io
import tarfile
from concurrent.futures import ThreadPoolExecutor

import pytest

from fvit.data.images import DataError
from fvit.data.sources import download
from fvit.data.sources.download import unpacked

# torchvision calls extractall without a filter.
pytestmark = pytest.mark.filterwarnings("ignore:Python 3.14 will, by default:DeprecationWarning")


def write_archive(path, files):
    """A .tar.gz of these files; its MD5."""
    with tarfile.open(path, "w:gz") as tar:
        for name, data in files.items():
            member = tarfile.TarInfo(name)
            member.size = len(data)
            tar.addfile(member, io.BytesIO(data))
    return hashlib.md5(path.read_bytes()).hexdigest()


@pytest.fixture
def archive(server):
    """URL and MD5 of an archive that holds things/a and things/b."""
    md5 = write_archive(server.folder / "things.tar.gz", {"things/a": b"A", "things/b": b"B"})
    return f"{server.url}/things.tar.gz", md5


def test_it_is_downloaded_once(archive, server, tmp_path):
    for _ in range(2):
        folder = unpacked(tmp_path / "new" / "root", "things", *archive, download=True)
        assert folder == tmp_path / "new" / "root" / "things"
        assert {file.name: file.read_bytes() for file in folder.iterdir()} == {"a": b"A", "b": b"B"}
    assert server.downloads("things.tar.gz") == 1


def test_of_several_ranks_one_downloads_and_the_others_wait(archive, server, tmp_path):
    def rank(_):
        return sorted(file.name for file in unpacked(tmp_path / "root", "things", *archive, download=True).iterdir())

    with ThreadPoolExecutor(4) as ranks:
        assert list(ranks.map(rank, range(4))) == [["a", "b"]] * 4
    assert server.downloads("things.tar.gz") == 1


def test_a_folder_that_is_there_is_taken_without_writing(tmp_path):
    (tmp_path / "things").mkdir()
    assert unpacked(tmp_path, "things", "http://127.0.0.1:9/things.tar.gz", "", download=False) == tmp_path / "things"
    assert [path.name for path in tmp_path.iterdir()] == ["things"]


@pytest.mark.parametrize("may_download", [True, False])
def test_an_archive_that_is_there_is_unpacked(archive, server, tmp_path, may_download):
    (tmp_path / "things.tar.gz").write_bytes((server.folder / "things.tar.gz").read_bytes())
    assert (unpacked(tmp_path, "things", *archive, download=may_download) / "a").read_bytes() == b"A"
    assert not server.requests


def test_a_damaged_archive_is_replaced_by_the_download(archive, server, tmp_path):
    (tmp_path / "things.tar.gz").write_bytes(b"cut")
    assert (unpacked(tmp_path, "things", *archive, download=True) / "a").read_bytes() == b"A"
    assert server.downloads("things.tar.gz") == 1


def test_a_damaged_archive_without_download(archive, tmp_path):
    (tmp_path / "things.tar.gz").write_bytes(b"cut")
    with pytest.raises(DataError, match=rf"things\.tar\.gz is damaged: its MD5 is not {archive[1]}"):
        unpacked(tmp_path, "things", *archive, download=False)


def test_nothing_there_and_no_download(archive, tmp_path):
    with pytest.raises(DataError, match=rf"set data\.download=true, or put {archive[0]} into {tmp_path}/root"):
        unpacked(tmp_path / "root", "things", *archive, download=False)
    assert not (tmp_path / "root").exists()


def nothing_is_left(root):
    # Beside what the server serves.
    return [path.name for path in root.iterdir() if path.is_dir()] == ["served"]


def test_without_a_network_it_says_what_to_put_where(tmp_path):
    url = "http://127.0.0.1:9/things.tar.gz"
    match = rf"{url} could not be downloaded .*refused.*put the file there as {tmp_path}/things\.tar\.gz \(MD5 abc\)"
    with pytest.raises(DataError, match=match):
        unpacked(tmp_path, "things", url, "abc", download=True)
    assert not [path for path in tmp_path.iterdir() if path.is_dir()]


def test_a_file_that_the_server_does_not_have(server, tmp_path):
    with pytest.raises(DataError, match=r"could not be downloaded .*404"):
        unpacked(tmp_path, "things", f"{server.url}/things.tar.gz", "abc", download=True)


def test_a_server_that_stalls_is_given_up(archive, server, tmp_path, monkeypatch):
    monkeypatch.setattr(download, "_STALL_SECONDS", 0.2)
    server.stall.clear()
    with pytest.raises(DataError, match=r"could not be downloaded .*timed out"):
        unpacked(tmp_path, "things", *archive, download=True)


def test_wrong_bytes_are_not_unpacked(archive, tmp_path):
    with pytest.raises(DataError, match=r"could not be downloaded .*corrupted"):
        unpacked(tmp_path, "things", archive[0], "0" * 32, download=True)
    assert nothing_is_left(tmp_path)


def test_an_archive_of_something_else(archive, tmp_path):
    with pytest.raises(DataError, match=r"things\.tar\.gz does not hold the folder others"):
        unpacked(tmp_path, "others", *archive, download=True)
    assert nothing_is_left(tmp_path)


def test_an_interrupted_unpacking_leaves_no_half_folder(archive, tmp_path, monkeypatch):
    def interrupted(self, path, *_, **__):
        (tmp_path / "root" / path / "things").mkdir()
        raise KeyboardInterrupt

    with monkeypatch.context() as patched:
        patched.setattr(tarfile.TarFile, "extractall", interrupted)
        with pytest.raises(KeyboardInterrupt):
            unpacked(tmp_path / "root", "things", *archive, download=True)
    assert len(list(unpacked(tmp_path / "root", "things", *archive, download=True).iterdir())) == 2
