"""Types of fields that several schemas share."""

from typing import Annotated, Literal

from pydantic import AfterValidator, BaseModel, ConfigDict, Field

_NOT_IN_A_PROJECT = "/\\#?%:"


def _project(name: str) -> str:
    if found := "".join(letter for letter in _NOT_IN_A_PROJECT if letter in name):
        raise ValueError(f"project={name}: W&B allows none of {' '.join(_NOT_IN_A_PROJECT)} in it; leave {found} out")
    return name


Text = Annotated[str, Field(min_length=1)]
Positive = Annotated[int, Field(ge=1)]
Count = Annotated[int, Field(ge=0)]
Share = Annotated[float, Field(ge=0, le=1)]
Rate = Annotated[float, Field(ge=0, lt=1)]
NonNegative = Annotated[float, Field(ge=0)]
WandbProject = Annotated[str, Field(min_length=1, max_length=128), AfterValidator(_project)]
Decoder = Literal["auto", "turbo", "simplejpeg", "pil"]


class Strict(BaseModel):
    """Takes the keys it declares and no others."""

    model_config = ConfigDict(extra="forbid", strict=False)


class Open(BaseModel):
    """Takes further keys, which somebody else checks."""

    model_config = ConfigDict(extra="allow")
