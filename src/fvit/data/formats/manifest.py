"""manifest.json, in which fvit-prepare describes a folder of shards."""

from pathlib import PurePosixPath
from typing import Annotated, Any, Literal

from pydantic import AfterValidator, BaseModel, ConfigDict, Field, ValidationError, model_validator

from fvit.data.images import DataError

NAME = "manifest.json"
FORMAT = "fvit-shards"


def _check_relative(name: str) -> str:
    parts = PurePosixPath(name).parts
    if not parts or name.startswith("/") or ".." in parts or "\\" in name or ":" in parts[0]:
        raise ValueError(f"{name!r} is not inside the folder")
    return name


Count = Annotated[int, Field(ge=0)]
Name = Annotated[str, AfterValidator(_check_relative)]


class _Strict(BaseModel):
    model_config = ConfigDict(extra="forbid", strict=True)


class FileEntry(_Strict):
    """A file: name relative to the folder, size in bytes, SHA-256 in hexadecimal."""

    name: Name
    size: Count
    sha256: Annotated[str, Field(pattern="^[0-9a-f]{64}$")]


class Shard(FileEntry):
    """A tar file and its number of images."""

    images: Annotated[int, Field(ge=1)]


class Skipped(_Strict):
    """A damaged image of the source that was left out."""

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
    def _check_sums(self) -> "Split":
        for key, images in (("shards", [s.images for s in self.shards]), ("per_class", self.per_class)):
            if sum(images) != self.images:
                raise ValueError(f"{key} add up to {sum(images)} images instead of {self.images}")
        if len({shard.name for shard in self.shards}) != len(self.shards):
            raise ValueError("a shard is listed twice")
        return self


class Manifest(_Strict):
    """The whole file. The same `settings` and source always give the same bytes."""

    format: Literal["fvit-shards"] = FORMAT
    version: Literal[1] = 1
    classes: Annotated[list[str], Field(min_length=1)]
    settings: dict[str, Any]
    splits: dict[Literal["train", "val"], Split]

    @model_validator(mode="after")
    def _check_classes(self) -> "Manifest":
        if len(self.splits) != 2:
            raise ValueError("splits must have train and val")
        for name, split in self.splits.items():
            if len(split.per_class) != len(self.classes):
                raise ValueError(f"{name} counts {len(split.per_class)} classes instead of {len(self.classes)}")
        return self

    def files(self) -> list[FileEntry]:
        """All files but the manifest."""
        return [file for split in self.splits.values() for file in (*split.shards, split.index)]


def parse(text: bytes, name: str) -> Manifest:
    """Parse a manifest, which messages call `name`.

    Raises:
        DataError: it is damaged, has another version, contradicts itself, or names a file outside its folder.
    """
    try:
        return Manifest.model_validate_json(text)
    except ValidationError as error:
        first = error.errors()[0]
        key = ".".join(str(part) for part in first["loc"])
        raise DataError(
            f"{name} is not a valid manifest: {key + ': ' if key else ''}{first['msg']}. "
            "Fetch it again, or prepare the images again"
        ) from None
