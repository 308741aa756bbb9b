"""Sources of images, their transforms, and the DataModule."""

from fvit.data.datamodule import ImageDataModule
from fvit.data.sources import SOURCES, Source

__all__ = ["SOURCES", "ImageDataModule", "Source"]
