"""Schema of `fvit-train`: all keys with their types and ranges.

Options of mechanisms, data sources, the Trainer, loggers and callbacks are checked where these are built.
"""

from typing import Annotated, Any, ClassVar, Literal

from omegaconf import DictConfig, OmegaConf
from pydantic import Field, model_validator

from fvit.config.batch_plan import plan_batches
from fvit.config.errors import unknown_key
from fvit.config.recorded import model_of
from fvit.config.schemas.distillation import Distillation
from fvit.config.schemas.fields import (
    Count,
    Decoder,
    Fraction,
    ImgSize,
    Loggers,
    NonNegative,
    Open,
    Positive,
    PositiveFloat,
    PositiveFraction,
    Rate,
    Strict,
)
from fvit.config.schemas.hardware import Hardware


class Model(Open):
    name: str
    num_classes: Positive | None = None
    pretrained: bool = False
    init_from: str | None = None
    freeze: Any = None
    blocks: Any = None
    keep: list[str] | None = None
    attention: dict[str, Any]
    patch_size: Positive | None = None
    embed_dim: Positive | None = None
    depth: Positive | None = None
    num_heads: Positive | None = None
    match: Literal["params", "macs"] | None = None
    mlp_ratio: PositiveFloat | None = None
    drop_rate: Rate | None = None
    drop_path_rate: Rate | None = None

    @model_validator(mode="after")
    def _attention_without_a_class(self) -> "Model":
        name = self.attention.get("name")
        known = {"native": ["name"], "mixed": ["name", "layers"]}.get(name, list(self.attention))
        for option, value in self.attention.items():
            if option not in known:
                raise ValueError(unknown_key(f"model.attention.{option}", value, known))
        if name == "mixed" and not isinstance(self.attention["layers"], list):
            raise ValueError(
                f"model.attention.layers={self.attention['layers']!r} must be a list: [additive*2,softmax*2]"
            )
        return self

    @model_validator(mode="after")
    def _further_options_have_an_effect(self) -> "Model":
        further = self.model_extra or {}
        if "img_size" in further:
            raise ValueError(f"model.img_size={further['img_size']}: the model follows the data; set data.img_size")
        if (channels := further.get("in_chans", 3)) != 3:
            raise ValueError(f"model.in_chans={channels}: images always have 3 channels, grayscale ones 3 equal ones")
        if "pretrained_cfg_overlay" in further and not self.pretrained:
            raise ValueError("model.pretrained_cfg_overlay has no effect without model.pretrained=true")
        return self

    @model_validator(mode="after")
    def _heads_divide_width(self) -> "Model":
        if self.embed_dim and self.num_heads and self.embed_dim % self.num_heads:
            raise ValueError(
                f"model.embed_dim={self.embed_dim} is not divisible by model.num_heads={self.num_heads}; "
                f"use embed_dim={round(self.embed_dim / self.num_heads) * self.num_heads}"
            )
        return self


class Transform(Strict):
    no_aug: bool
    scale: tuple[Fraction, Fraction]
    ratio: tuple[PositiveFloat, PositiveFloat]
    hflip: Fraction
    color_jitter: NonNegative | None
    auto_augment: str | None

    @model_validator(mode="after")
    def _scale_is_ordered(self) -> "Transform":
        if self.scale[0] > self.scale[1]:
            raise ValueError(f"data.augment.transform.scale={list(self.scale)} must be [smallest, largest]")
        return self


class Erasing(Strict):
    probability: Fraction
    mode: Literal["const", "rand", "pixel"]


class Mixup(Strict):
    mixup_alpha: NonNegative
    cutmix_alpha: NonNegative
    prob: Fraction
    switch_prob: Fraction
    mode: Literal["batch", "pair", "elem"]
    off_epochs: Count = 0


class Augment(Strict):
    transform: Transform
    erasing: Erasing
    mixup: Mixup
    num_repeats: Positive


class Data(Open):
    name: str
    img_size: ImgSize
    size_schedule: Annotated[list[Positive], Field(min_length=1)] | None = None
    naflex: Positive | None = None
    crop_pct: PositiveFraction
    interpolation: Literal["nearest", "bilinear", "bicubic", "lanczos"]
    mean: tuple[float, float, float]
    std: tuple[PositiveFloat, ...]
    num_workers: Count | Literal["auto"]
    prefetch_factor: Positive | None = None
    eval_batch_size: Count
    pin_memory: bool
    decoder: Decoder
    skip_limit: Count
    resident: bool = False
    augment: Augment

    @model_validator(mode="after")
    def _has_workers_to_prefetch(self) -> "Data":
        if self.prefetch_factor is not None and (self.num_workers == 0 or self.resident):
            raise ValueError(
                f"data.prefetch_factor={self.prefetch_factor} has no effect without loader processes: set "
                "data.num_workers as well, or leave it out"
            )
        return self

    @model_validator(mode="after")
    def _sizes_fit_into_memory(self) -> "Data":
        if self.size_schedule and not isinstance(self.img_size, int):
            raise ValueError(f"data.size_schedule has sides of squares, and data.img_size={self.img_size} is none")
        if self.size_schedule and max(self.size_schedule) > self.img_size:
            raise ValueError(
                f"data.size_schedule={self.size_schedule} has sizes above data.img_size={self.img_size}, for which "
                f"batches are sized; set data.img_size={max(self.size_schedule)}"
            )
        return self


class Optimizer(Open):
    opt: str
    lr: PositiveFloat
    weight_decay: NonNegative
    layer_decay: PositiveFraction | None
    head_lr: PositiveFloat | None = None


class Scheduler(Strict):
    sched: Literal["cosine", "wsd", "constant"]
    warmup_epochs: NonNegative | None
    warmup_lr: NonNegative
    min_lr: NonNegative = 0.0
    decay_epochs: PositiveFloat | None = None
    decay_fn: Literal["linear", "1-sqrt", "cosine", "power", "exp"] | None = None


class CrossEntropy(Strict):
    name: Literal["cross_entropy"]
    label_smoothing: Rate


class BinaryCrossEntropy(Strict):
    name: Literal["bce"]
    smoothing: Rate
    target_threshold: Fraction | None


class Train(Hardware):
    groups: ClassVar = ("experiment", "debug", "sweep", "attention", "augment", "hardware")

    @staticmethod
    def advise(key: str, cfg: DictConfig) -> str:
        """How a missing key can be given, where the rest of the configuration tells; else an empty text."""
        start = OmegaConf.select(cfg, "model.init_from")
        model = model_of(start) if key == "model.name" and start is not None else []
        return f"the model of {start} is {' '.join(model)}" if model else ""

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
    def _has_a_length(self) -> "Train":
        epochs = self.trainer.max_epochs
        if (self.trainer.model_extra or {}).get("fast_dev_run"):
            return self
        if epochs is None and self.trainer.max_steps == -1:  # Lightning would train for 1,000 epochs
            raise ValueError("trainer.max_epochs=null needs another limit; add +trainer.max_steps=N")
        if epochs and (self.scheduler.warmup_epochs or 0) >= epochs:
            raise ValueError(
                f"scheduler.warmup_epochs={self.scheduler.warmup_epochs:g} must be less than "
                f"trainer.max_epochs={epochs}; scheduler.warmup_epochs=null is an eighth of the run"
            )
        if epochs is None and (self.data.size_schedule or self.data.augment.mixup.off_epochs):
            key = "size_schedule" if self.data.size_schedule else "augment.mixup.off_epochs"
            raise ValueError(f"data.{key} divides the epochs of a run: set trainer.max_epochs")
        if len(self.data.size_schedule or ()) > (epochs or 0):
            raise ValueError(
                f"data.size_schedule={self.data.size_schedule} has {len(self.data.size_schedule)} sizes, more than "
                f"trainer.max_epochs={epochs}; give at most one per epoch"
            )
        return self

    @model_validator(mode="after")
    def _everything_has_an_effect(self) -> "Train":
        if self.model.init_from is not None and self.model.pretrained:
            raise ValueError(
                "model.init_from has no effect with model.pretrained: leave model.pretrained out, or set "
                "model.init_from=null"
            )
        teacher = self.distillation is not None and self.distillation.attention
        if self.data.size_schedule and teacher and teacher.weight and teacher.inputs == "teacher":
            raise ValueError(
                "distillation.attention.inputs=teacher compares attentions at data.img_size: set data.size_schedule="
                "null, or inputs=student"
            )
        if self.data.naflex is not None and self.distillation is not None:
            raise ValueError(
                f"data.naflex={self.data.naflex} cannot be combined with distillation: leave one of them out"
            )
        if self.data.naflex is not None and self.logger.wandb is not None and self.logger.wandb.media:
            raise ValueError("logger.wandb.media draws images of one shape: with data.naflex set logger.wandb.media=0")
        mixup = self.data.augment.mixup
        if mixup.off_epochs and not mixup.mixup_alpha + mixup.cutmix_alpha:
            raise ValueError("data.augment.mixup.off_epochs has no effect without mixup_alpha or cutmix_alpha")
        if isinstance(self.loss, BinaryCrossEntropy) and self.loss.smoothing and mixup.mixup_alpha + mixup.cutmix_alpha:
            raise ValueError("loss.smoothing has no effect on mixed labels; set it to 0, or turn mixup and cutmix off")
        return self

    @model_validator(mode="after")
    def _can_be_sharded(self) -> "Train":
        if self.trainer.strategy != "fsdp":
            return self
        if self.distillation is not None:
            raise ValueError("distillation needs unsharded weights: use hardware=ddp instead of fsdp")
        if self.data.size_schedule:
            raise ValueError("data.size_schedule resamples unsharded weights: use hardware=ddp instead of fsdp")
        for name, options in self.callbacks.items():
            if str(options.get("_target_")).endswith(("EMA", "Averaging", "AdaptiveGradientClipping")):
                raise ValueError(
                    f"callbacks.{name} needs unsharded weights: leave it out, or use hardware=ddp instead of fsdp"
                )
            if str(options.get("_target_")).endswith(".Unfreeze"):
                raise ValueError(
                    f"callbacks.{name}: sharded weights stay frozen for a whole run; use hardware=ddp instead of fsdp"
                )
        return self

    @model_validator(mode="after")
    def _batch_divides(self) -> "Train":
        if self.trainer.world_size is not None:
            plan_batches(self.global_batch_size, self.trainer.world_size)
        return self
