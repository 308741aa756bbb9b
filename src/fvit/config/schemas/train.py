"""What a configuration may hold, checked first thing and before torch is imported.

Hydra refuses unknown keys but takes `+experimnt=x` silently, and knows neither types nor ranges. Here every key is
known, from the classes below or from the signature of the constructor that will receive it.
"""

from typing import Annotated, Any, ClassVar, Literal

from pydantic import BeforeValidator, Field, model_validator

from fvit.config.batch_plan import plan_batches
from fvit.config.schemas.distillation import Distillation
from fvit.config.schemas.fields import Count, Decoder, NonNegative, Open, Positive, Rate, Share, Strict
from fvit.config.schemas.hardware import Hardware, check_sharding
from fvit.config.schemas.loggers import Loggers
from fvit.config.signature import mechanism_signature, source_signature
from fvit.config.surgery import check_blocks, check_effects, check_keep
from fvit.config.validation import check_options


class Model(Open):
    name: str
    num_classes: Positive | None = None
    pretrained: bool = False
    init_from: str | None = None
    blocks: Annotated[Any, BeforeValidator(check_blocks)] = None
    keep: Annotated[list[str], BeforeValidator(check_keep), Field(default_factory=list)]
    attention: dict[str, Any]
    patch_size: Positive | None = None
    embed_dim: Positive | None = None
    depth: Positive | None = None
    num_heads: Positive | None = None
    match: Literal["params", "macs"] | None = None
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
    def _surgery(self) -> "Model":
        check_effects(self.model_dump())
        return self

    @model_validator(mode="after")
    def _images_are_the_datas(self) -> "Model":
        extra = self.model_extra or {}
        if "img_size" in extra:
            size = extra["img_size"]
            raise ValueError(f"model.img_size={size}: a model is built for the size of its images; set data.img_size")
        if (channels := extra.get("in_chans", 3)) != 3:
            raise ValueError(f"model.in_chans={channels}: images have 3 channels, gray ones 3 that are equal; take 3")
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
    no_aug: bool
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
    interpolation: Literal["nearest", "bilinear", "bicubic", "lanczos"]
    mean: tuple[float, float, float]
    std: tuple[Annotated[float, Field(gt=0)], ...]
    num_workers: Count
    eval_batch_size: Count
    pin_memory: bool
    decoder: Decoder
    skip_limit: Count
    augment: Augment

    @model_validator(mode="after")
    def _source_options(self) -> "Data":
        known = {**dict.fromkeys(type(self).model_fields, Any), **source_signature(self.name)}
        check_options(self.model_extra or {}, known, f"data ({self.name})")
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


class Train(Hardware):
    also_known: ClassVar = ("experiment", "debug", "sweep", "attention", "augment", "hardware")

    title: str
    output_dir: str
    seed: Count
    global_batch_size: Positive
    micro_batch_size: Positive | None
    ckpt_path: str | None
    quiet: bool
    model: Model
    data: Data
    optimizer: Optimizer
    scheduler: Scheduler
    loss: Annotated[CrossEntropy | BinaryCrossEntropy, Field(discriminator="name")]
    distillation: Distillation | None
    logger: Loggers
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
        whole = not (self.trainer.model_extra or {}).get("fast_dev_run")
        if whole and epochs is None and self.trainer.max_steps == -1:  # Lightning would take 1,000 epochs
            raise ValueError("trainer.max_epochs=null leaves the run without a length; add +trainer.max_steps=N")
        if whole and epochs and self.scheduler.warmup_epochs >= epochs:
            raise ValueError(
                f"scheduler.warmup_epochs={self.scheduler.warmup_epochs:g} leaves nothing of "
                f"trainer.max_epochs={epochs}; take scheduler.warmup_epochs={epochs // 10}"
            )
        if self.model.init_from is not None and (self.ckpt_path is not None or self.model.pretrained):
            other = "ckpt_path" if self.ckpt_path is not None else "model.pretrained"
            raise ValueError(
                f"model.init_from has no effect with {other}: leave {other} out, or set model.init_from=null"
            )
        mixup = self.data.augment.mixup
        if isinstance(self.loss, BinaryCrossEntropy) and self.loss.smoothing and mixup.mixup_alpha + mixup.cutmix_alpha:
            raise ValueError(
                "loss.smoothing has no effect on mixed labels; set it to 0, or switch mixup and cutmix off"
            )
        check_sharding(self.trainer, self.distillation, self.callbacks)
        if self.trainer.world_size is not None:  # else known once torch is imported
            plan_batches(self.global_batch_size, self.trainer.world_size)
        return self


class EvalData(Strict):
    name: str | None
    root: str | None
    eval_batch_size: Positive | None
    num_workers: Count | None
    pin_memory: bool
    crop_pct: Annotated[float, Field(gt=0, le=1)] | None
    decoder: Decoder | None


class Eval(Hardware):
    output_dir: str
    ckpt_path: str
    tiny: str | None
    quiet: bool
    data: EvalData
    logger: Loggers
    callbacks: dict[str, dict[str, Any]]

    @model_validator(mode="after")
    def _no_gradients(self) -> "Eval":
        if self.grad_checkpointing:
            raise ValueError("grad_checkpointing=true has no effect: nothing is trained here")
        return self
