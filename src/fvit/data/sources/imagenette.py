"""Imagenette, downloaded."""

from pathlib import Path
from typing import Literal

from fvit.data.images import DataError
from fvit.data.sources.base import Source
from fvit.data.sources.download import unpacked
from fvit.data.sources.folder import tree

# Archive and MD5, those of torchvision.datasets.Imagenette; the folder within is named as the archive.
ARCHIVES = {
    "full": ("https://s3.amazonaws.com/fast-ai-imageclas/imagenette2.tgz", "fe2fc210e6bb7c5664d602c3cd71e612"),
    "320px": ("https://s3.amazonaws.com/fast-ai-imageclas/imagenette2-320.tgz", "3df6f0d01a2c9592104656642f5e78a3"),
    "160px": ("https://s3.amazonaws.com/fast-ai-imageclas/imagenette2-160.tgz", "e793b78cc4c9e9a4ccc0c1155377a412"),
}


def imagenette(
    root: str | None = None, size: Literal["320px", "160px", "full"] = "320px", download: bool = True
) -> Source:
    """Ten classes of ImageNet that are told apart easily (Howard 2019): 9,469 and 3,925 images.

    Args:
        root: the folder that holds imagenette2-320 (or -160, or imagenette2), or its archive, or takes the download.
        size: of the shorter side; ``full`` is the original.
        download: whether the network may be asked.

    Raises:
        DataError: `root` is None, or the data cannot be had.
    """
    if root is None:
        raise DataError(
            "data=imagenette needs data.root: the folder that holds imagenette2-320, or into which to download it"
        )
    if size not in ARCHIVES:
        raise DataError(f"data.size={size} is none of {', '.join(ARCHIVES)}")
    url, md5 = ARCHIVES[size]
    folder = unpacked(Path(root).expanduser(), Path(url).stem, url, md5, download)
    return tree(folder / "train", folder / "val")
