"""Types of fields that several schemas share."""

from typing import Annotated, Literal

from pydantic import BaseModel, ConfigDict, Field

Positive = Annotated[int, Field(ge=1)]
Count = Annotated[int, Field(ge=0)]
Share = Annotated[float, Field(ge=0, le=1)]
Rate = Annotated[float, Field(ge=0, lt=1)]
NonNegative = Annotated[float, Field(ge=0)]
Decoder = Literal["auto", "turbo", "simplejpeg", "pil"]


class Strict(BaseModel):
    """Takes the keys it declares and no others."""

    model_config = ConfigDict(extra="forbid", strict=False)


class Open(BaseModel):
    """Takes further keys, which somebody else checks."""

    model_config = ConfigDict(extra="allow")
