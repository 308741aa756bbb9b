"""Archives of small data sets, downloaded once a node."""

import socket
import tarfile
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from http.client import HTTPException
from pathlib import Path

from filelock import FileLock
from torchvision.datasets.utils import check_integrity, download_and_extract_archive

from fvit.data.images import DataError

# Without a byte for so long, a server is given up.
_STALL_SECONDS = 60.0


def unpacked(root: Path, folder: str, url: str, md5: str, download: bool) -> Path:
    """root/folder, made from the archive at `url` if it is not there: one process works and the others wait.

    The folder appears when it is complete. An archive that already lies in `root` is not downloaded again.

    Args:
        root: created if missing.
        folder: the one folder that the archive holds.
        url: of the archive.
        md5: of the archive.
        download: whether the network may be asked.

    Raises:
        DataError: the archive cannot be had, is damaged, or holds another folder.
    """
    target = root / folder
    if target.is_dir():
        return target
    archive = root / url.rpartition("/")[2]
    if not download and not archive.is_file():
        raise DataError(f"{target} does not exist; set data.download=true, or put {url} into {root}")
    root.mkdir(parents=True, exist_ok=True)
    with FileLock(root / f".{folder}.lock"):
        if not target.is_dir():
            if not download and not check_integrity(archive, md5):
                raise DataError(f"{archive} is damaged: its MD5 is not {md5}; put {url} in its place")
            _unpack(url, md5, archive, target)
    return target


def _unpack(url: str, md5: str, archive: Path, target: Path) -> None:
    root = archive.parent
    with tempfile.TemporaryDirectory(dir=root, prefix=f".{target.name}.") as aside:
        try:
            with _patience(_STALL_SECONDS):
                download_and_extract_archive(url, str(root), aside, md5=md5)
        # RuntimeError: what torchvision calls another MD5.
        except (OSError, HTTPException, RuntimeError, tarfile.TarError) as error:
            raise DataError(
                f"{url} could not be downloaded and unpacked into {root}: {error}. "
                f"Without a network, put the file there as {archive} (MD5 {md5})"
            ) from error
        unpacked = Path(aside, target.name)
        if not unpacked.is_dir():
            raise DataError(f"{archive} does not hold the folder {target.name}")
        unpacked.rename(target)


@contextmanager
def _patience(seconds: float) -> Iterator[None]:
    previous = socket.getdefaulttimeout()
    socket.setdefaulttimeout(seconds)
    try:
        yield
    finally:
        socket.setdefaulttimeout(previous)
