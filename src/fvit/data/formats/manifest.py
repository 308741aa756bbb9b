"""manifest.json: what `fvit-prepare` has written into a folder of shards, file by file."""

from pathlib import Path, PurePosixPath
from typing import Annotated, Any, Literal

from pydantic import AfterValidator, BaseModel, ConfigDict, Field, ValidationError, model_validator

from fvit.data.images import DataError
from fvit.data.storage.atomic import replacing

NAME = "manifest.json"
FORMAT = "fvit-shards"


def _inside(name: str) -> str:
    parts = PurePosixPath(name).parts
    if not parts or name.startswith("/") or ".." in parts or "\\" in name or ":" in parts[0]:
        raise ValueError(f"{name!r} leads outside the folder")
    return name


Count = Annotated[int, Field(ge=0)]
Name = Annotated[str, AfterValidator(_inside)]


class _Strict(BaseModel):
    model_config = ConfigDict(extra="forbid", strict=True)


class FileEntry(_Strict):
    """One file: its name in the folder, bytes, and SHA-256 in hexadecimal."""

    name: Name
    size: Count
    sha256: Annotated[str, Field(pattern="^[0-9a-f]{64}$")]


class Shard(FileEntry):
    """A tar file, and the images in it."""

    images: Annotated[int, Field(ge=1)]


class Skipped(_Strict):
    """An image of the source that was left out."""

    name: str
    reason: str


class Split(_Strict):
    """The training or the validation images."""

    images: Annotated[int, Field(ge=1)]
    per_class: list[Count]
    shards: list[Shard]
    index: FileEntry
    skipped: list[Skipped]

    @model_validator(mode="after")
    def _sums(self) -> "Split":
        counted = {"shards": sum(shard.images for shard in self.shards), "per_class": sum(self.per_class)}
        for what, images in counted.items():
            if images != self.images:
                raise ValueError(f"{what} add up to {images} images and not to {self.images}")
        if len({shard.name for shard in self.shards}) != len(self.shards):
            raise ValueError("a shard is listed twice")
        return self


class Splits(_Strict):
    """Both of them."""

    train: Split
    val: Split


class Manifest(_Strict):
    """All of it. With the same `settings`, from the same source, come the same bytes."""

    format: Literal["fvit-shards"] = FORMAT
    version: Literal[1] = 1
    classes: Annotated[list[str], Field(min_length=1)]
    settings: dict[str, Any]
    splits: Splits

    @model_validator(mode="after")
    def _every_class_counted(self) -> "Manifest":
        for name, split in self.by_split().items():
            if len(split.per_class) != len(self.classes):
                raise ValueError(f"{name} counts {len(split.per_class)} classes of {len(self.classes)}")
        return self

    def by_split(self) -> dict[str, Split]:
        """``train`` and ``val``."""
        return {"train": self.splits.train, "val": self.splits.val}

    def files(self) -> list[FileEntry]:
        """Every file but the manifest itself."""
        return [file for split in self.by_split().values() for file in (*split.shards, split.index)]


def read(path: Path, name: str | None = None) -> Manifest:
    """The manifest in a file.

    Args:
        path: of the file.
        name: what messages call it, where it is a copy of something far away.

    Raises:
        DataError: as `parse`.
    """
    return parse(path.read_bytes(), name or str(path))


def parse(text: bytes, name: str) -> Manifest:
    """The manifest with this text.

    Args:
        text: JSON.
        name: what messages call it.

    Raises:
        DataError: it is damaged, of another version, contradicts itself, or names a file outside its folder.
    """
    try:
        return Manifest.model_validate_json(text)
    except ValidationError as error:
        first = error.errors()[0]
        where = ".".join(str(part) for part in first["loc"])
        raise DataError(
            f"{name} is no manifest of prepared shards: {where + ': ' if where else ''}{first['msg']}. "
            "Fetch it again, or prepare the images again"
        ) from None


def write(path: Path, manifest: Manifest) -> None:
    """Put it into a file, whole or not at all."""
    with replacing(path) as file:
        file.write(manifest.model_dump_json(indent=1).encode() + b"\n")
