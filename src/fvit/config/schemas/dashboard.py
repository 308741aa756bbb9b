"""Schema of `fvit-dashboard`."""

from typing import Annotated

from pydantic import Field

from fvit.config.schemas.fields import Strict, Text, WandbProject


class Dashboard(Strict):
    entity: str | None
    project: WandbProject
    name: Annotated[str, Field(min_length=1, max_length=128)]
    group_by: Text
    settings: Annotated[list[Text], Field(min_length=1)]
    bench: str | None
    out: Text
    quiet: bool
