"""Field types shared by several schemas."""

from typing import Annotated, Any, Literal

from pydantic import AfterValidator, BaseModel, ConfigDict, Field, model_validator

_FORBIDDEN = "/\\#?%:"


def _project(name: str) -> str:
    if found := "".join(letter for letter in _FORBIDDEN if letter in name):
        raise ValueError(f"project={name}: W&B does not allow any of {' '.join(_FORBIDDEN)} in it; remove {found}")
    return name


def _img_size(size: Any) -> Any:
    sides = size if isinstance(size, list | tuple) else [size]
    if len(sides) != 1 + isinstance(size, list | tuple) or not all(type(side) is int and side > 0 for side in sides):
        raise ValueError(f"data.img_size={size} must be a number of pixels, 224, or height and width, [256,192]")
    return size


Text = Annotated[str, Field(min_length=1)]
Positive = Annotated[int, Field(ge=1)]
PositiveFloat = Annotated[float, Field(gt=0)]
Count = Annotated[int, Field(ge=0)]
NonNegative = Annotated[float, Field(ge=0)]
Fraction = Annotated[float, Field(ge=0, le=1)]
PositiveFraction = Annotated[float, Field(gt=0, le=1)]
Rate = Annotated[float, Field(ge=0, lt=1)]
ImgSize = Annotated[Any, AfterValidator(_img_size)]
Decoder = Literal["auto", "turbo", "simplejpeg", "pil"]
Augmentation = Literal["flip", "5crop", "10crop"]
WandbProject = Annotated[str, Field(min_length=1, max_length=128), AfterValidator(_project)]


class Strict(BaseModel):
    """Refuses undeclared keys."""

    model_config = ConfigDict(extra="forbid")


class Open(BaseModel):
    """Accepts further keys, which the function that receives them checks."""

    model_config = ConfigDict(extra="allow")


class OneModel(Strict):
    """Either a checkpoint or a model with published weights."""

    ckpt_path: Text | None
    pretrained: Text | None

    @model_validator(mode="after")
    def _is_given(self) -> "OneModel":
        self.check_one_model()
        return self

    def check_one_model(self) -> None:
        """Raise ValueError unless one is given."""
        if self.ckpt_path is None and self.pretrained is None:
            raise ValueError(
                "ckpt_path must be given: ckpt_path=… (a checkpoint or run directory), or pretrained=… (of timm)"
            )
        if self.ckpt_path is not None and self.pretrained is not None:
            raise ValueError(
                f"pretrained={self.pretrained} has no effect with ckpt_path={self.ckpt_path}: leave one of them out"
            )


class Wandb(Open):
    project: WandbProject
    entity: str | None = None
    name: str
    notes: str | None = None
    group: str | None
    job_type: str
    tags: list[str]
    media: Count
    artifacts: Literal["off", "best", "all"]
    offline: bool
    run_dir: str
    save_dir: str


class Loggers(Open):
    wandb: Wandb | None = None
