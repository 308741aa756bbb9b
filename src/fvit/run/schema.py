"""What a configuration may hold, checked first thing and before torch is imported.

Hydra refuses unknown keys but takes `+experimnt=x` silently, and knows neither types nor ranges. Here every key is
known, from the classes below or from the signature of the constructor that will receive it.
"""

from typing import Annotated, Any, Literal

from omegaconf import DictConfig, OmegaConf
from pydantic import BaseModel, ConfigDict, Field, ValidationError, create_model, model_validator

from fvit.run.errors import ConfigError, did_you_mean
from fvit.run.signature import mechanism_signature, source_signature, trainer_signature

Positive = Annotated[int, Field(ge=1)]
Count = Annotated[int, Field(ge=0)]
Share = Annotated[float, Field(ge=0, le=1)]
Rate = Annotated[float, Field(ge=0, lt=1)]
NonNegative = Annotated[float, Field(ge=0)]


class Strict(BaseModel):
    """Takes the keys it declares and no others."""

    model_config = ConfigDict(extra="forbid", strict=False)


class Open(BaseModel):
    """Takes further keys, which somebody else checks."""

    model_config = ConfigDict(extra="allow")


class Model(Open):
    name: str
    num_classes: Positive | None = None
    pretrained: bool = False
    blocks: list[Count] | None = None
    attention: dict[str, Any]
    patch_size: Positive | None = None
    embed_dim: Positive | None = None
    depth: Positive | None = None
    num_heads: Positive | None = None
    mlp_ratio: Annotated[float, Field(gt=0)] | None = None
    drop_rate: Rate | None = None
    drop_path_rate: Rate | None = None

    @model_validator(mode="after")
    def _attention_options(self) -> "Model":
        options = dict(self.attention)
        name = options.pop("name", None)
        if name in ("native", "mixed"):
            known: dict[str, Any] | None = {"layers": list} if name == "mixed" else {}
        else:
            known = mechanism_signature(str(name))
        if known is not None:
            check_options(options, known, f"model.attention ({name})")
        return self

    @model_validator(mode="after")
    def _heads_divide_width(self) -> "Model":
        if self.embed_dim and self.num_heads and self.embed_dim % self.num_heads:
            raise ValueError(
                f"model.embed_dim={self.embed_dim} is not divisible by model.num_heads={self.num_heads}; "
                f"take embed_dim={round(self.embed_dim / self.num_heads) * self.num_heads}"
            )
        return self


class Transform(Strict):
    scale: tuple[Share, Share]
    ratio: tuple[Annotated[float, Field(gt=0)], Annotated[float, Field(gt=0)]]
    hflip: Share
    color_jitter: NonNegative | None
    auto_augment: str | None


class Erasing(Strict):
    probability: Share
    mode: Literal["const", "rand", "pixel"]


class Mixup(Strict):
    mixup_alpha: NonNegative
    cutmix_alpha: NonNegative
    prob: Share
    switch_prob: Share
    mode: Literal["batch", "pair", "elem"]


class Augment(Strict):
    transform: Transform
    erasing: Erasing
    mixup: Mixup
    num_repeats: Positive


class Data(Open):
    name: str
    img_size: Positive
    crop_pct: Annotated[float, Field(gt=0, le=1)]
    interpolation: Literal["nearest", "bilinear", "bicubic", "lanczos", "random"]
    mean: tuple[float, float, float]
    std: tuple[Annotated[float, Field(gt=0)], ...]
    num_workers: Count
    eval_batch_size: Count
    pin_memory: bool
    augment: Augment

    @model_validator(mode="after")
    def _source_options(self) -> "Data":
        check_options(self.model_extra or {}, source_signature(self.name), f"data ({self.name})")
        return self

    @model_validator(mode="after")
    def _images_divide(self) -> "Data":
        if self.augment.transform.scale[0] > self.augment.transform.scale[1]:
            raise ValueError(f"data.augment.transform.scale={list(self.augment.transform.scale)} is not (least, most)")
        return self


class Optimizer(Open):
    opt: str
    lr: Annotated[float, Field(gt=0)]
    weight_decay: NonNegative
    layer_decay: Annotated[float, Field(gt=0, le=1)] | None


class Scheduler(Strict):
    sched: Literal["cosine", "wsd", "constant"]
    warmup_epochs: NonNegative
    warmup_lr: NonNegative
    min_lr: NonNegative = 0.0
    decay_epochs: Annotated[float, Field(gt=0)] | None = None
    decay_fn: Literal["linear", "1-sqrt", "cosine", "power", "exp"] | None = None


class CrossEntropy(Strict):
    name: Literal["cross_entropy"]
    label_smoothing: Rate


class BinaryCrossEntropy(Strict):
    name: Literal["bce"]
    smoothing: Rate
    target_threshold: Share | None


class Trainer(Open):
    accelerator: Literal["cpu", "gpu", "mps"]
    devices: Positive | Literal["auto"] | list[Count]
    num_nodes: Positive
    strategy: str
    precision: Literal["32-true", "16-mixed", "bf16-mixed", "bf16-true", "64-true"]
    max_epochs: Positive | None = None
    max_steps: int = -1
    gradient_clip_val: NonNegative | None = None
    log_every_n_steps: Positive = 50

    @model_validator(mode="after")
    def _trainer_options(self) -> "Trainer":
        # What train() itself decides is not the user's to set.
        ours = ("logger", "callbacks", "accumulate_grad_batches", "default_root_dir", "use_distributed_sampler")
        known = {name: kind for name, kind in trainer_signature().items() if name not in ours}
        check_options(self.model_extra or {}, known, "trainer")
        return self


class Train(Strict):
    title: str
    output_dir: str
    seed: Count
    global_batch_size: Positive
    micro_batch_size: Positive | None
    ckpt_path: str | None
    compile: bool
    model: Model
    data: Data
    optimizer: Optimizer
    scheduler: Scheduler
    loss: Annotated[CrossEntropy | BinaryCrossEntropy, Field(discriminator="name")]
    trainer: Trainer
    logger: dict[str, dict[str, Any]]
    callbacks: dict[str, dict[str, Any]]

    @model_validator(mode="after")
    def _combinations(self) -> "Train":
        patch, size = self.model.patch_size, self.data.img_size
        if patch and size % patch:
            raise ValueError(
                f"data.img_size={size} is not divisible by model.patch_size={patch}; "
                f"take data.img_size={max(1, round(size / patch)) * patch}"
            )
        epochs = self.trainer.max_epochs
        if (
            epochs
            and self.scheduler.warmup_epochs >= epochs
            and not (self.trainer.model_extra or {}).get("fast_dev_run")
        ):
            raise ValueError(
                f"scheduler.warmup_epochs={self.scheduler.warmup_epochs:g} leaves nothing of "
                f"trainer.max_epochs={epochs}; take scheduler.warmup_epochs={epochs // 10}"
            )
        devices = self.trainer.devices
        world = self.trainer.num_nodes * (
            len(devices) if isinstance(devices, list) else 1 if devices == "auto" else devices
        )
        if world > 1 and self.trainer.strategy == "auto":
            raise ValueError("several devices need hardware=ddp (or ddp_cpu, to try it on a CPU)")
        return self


class EvalData(Strict):
    name: str | None
    root: str | None
    eval_batch_size: Positive | None
    num_workers: Count | None
    crop_pct: Annotated[float, Field(gt=0, le=1)] | None


class Eval(Strict):
    output_dir: str
    ckpt_path: str
    data: EvalData
    trainer: Trainer


def check(cfg: DictConfig, schema: type[BaseModel]) -> dict[str, Any]:
    """The resolved configuration as plain dicts, lists and numbers.

    Raises:
        ConfigError: a key is unknown, missing or of the wrong type or range, or two of them exclude each other.
    """
    missing = sorted(OmegaConf.missing_keys(cfg))
    if missing:
        raise ConfigError("\n".join(f"{key} must be given: {key}=…" for key in missing))
    plain = OmegaConf.to_container(cfg, resolve=True)
    try:
        schema.model_validate(plain)
    except ValidationError as error:
        raise ConfigError("\n".join(_explain(item, schema) for item in error.errors())) from None
    return plain


def check_options(options: dict[str, Any], known: dict[str, Any], where: str) -> None:
    """Hold `options` against a constructor's signature.

    Raises:
        ValueError: an option is unknown or has the wrong type.
    """
    for name in options:
        if name not in known:
            raise ValueError(
                f"{where} has no option '{name}'{did_you_mean(name, list(known))}; "
                f"options: {', '.join(list(known)[:12]) or 'none'}{', …' if len(known) > 12 else ''}"
            )
    fields = {name: (known[name], ...) for name in options}
    try:
        create_model("Options", **fields).model_validate(options)
    except ValidationError as error:
        raise ValueError(
            "; ".join(f"{where}.{_where(item)}={item['input']!r}: {item['msg']}" for item in error.errors())
        ) from None


def _where(item: Any) -> str:
    return ".".join(str(part) for part in item["loc"])


def _explain(item: Any, schema: type[BaseModel]) -> str:
    key = _where(item)
    if item["type"] == "extra_forbidden":
        owner = schema
        for part in item["loc"][:-1]:
            annotation = owner.model_fields[part].annotation if part in owner.model_fields else None
            if not (isinstance(annotation, type) and issubclass(annotation, BaseModel)):
                return f"unknown key {key}={item['input']!r}"
            owner = annotation
        groups = ["experiment", "debug", "attention", "augment", "hardware"] if owner is Train else []
        near = did_you_mean(str(item["loc"][-1]), [*owner.model_fields, *groups])
        return f"unknown key {key}={item['input']!r}{near}"
    if item["type"] == "value_error":
        return str(item["ctx"]["error"])
    return f"{key}={item['input']!r}: {item['msg'][0].lower()}{item['msg'][1:]}"
