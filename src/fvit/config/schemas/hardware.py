"""What the group `hardware` may hold: the Trainer's devices, and how they compute."""

from typing import Annotated, Any, Literal

from pydantic import BaseModel, Field, model_validator

from fvit.config.schemas.fields import NonNegative, Open, Positive, Strict
from fvit.config.signature import trainer_signature
from fvit.config.validation import check_options


class Trainer(Open):
    accelerator: Literal["cpu", "gpu", "mps"]
    devices: Positive | Literal["auto"] | list[int] | None
    num_nodes: Positive | None
    strategy: Literal["auto", "ddp", "ddp_find_unused_parameters_true", "fsdp"]
    precision: Literal["32-true", "16-mixed", "bf16-mixed", "bf16-true", "64-true"]
    max_epochs: Positive | None = None
    max_steps: int = -1
    gradient_clip_val: NonNegative | None = None
    log_every_n_steps: Positive = 50
    # Not by the clock, as Lightning also takes it: ranks' clocks differ.
    val_check_interval: Positive | Annotated[float, Field(gt=0, le=1)] | None = None

    @property
    def world_size(self) -> int | None:
        """Processes that work together; None if only torch could tell."""
        if self.devices == "auto":
            return None
        return self.num_nodes * (len(self.devices) if isinstance(self.devices, list) else self.devices)

    @model_validator(mode="after")
    def _trainer_options(self) -> "Trainer":
        # What train() itself decides is not the user's to set.
        ours = ("logger", "callbacks", "accumulate_grad_batches", "default_root_dir", "use_distributed_sampler")
        known = {option: kind for option, kind in trainer_signature().items() if option not in ours}
        check_options(self.model_extra or {}, known, "trainer")
        return self

    @model_validator(mode="after")
    def _somebody_started_it(self) -> "Trainer":
        if self.devices is None or self.num_nodes is None:
            raise ValueError(
                "nobody says how many processes there are: hardware=torchrun is for those of "
                "`torchrun --nproc-per-node=N -m fvit.train …`, hardware=slurm for those of `srun fvit-train …` in a "
                "job with --nodes and --ntasks-per-node. Take hardware=ddp to have them started"
            )
        return self

    @model_validator(mode="after")
    def _numbers_are_gpus(self) -> "Trainer":
        if not isinstance(self.devices, list):
            return self
        if self.accelerator != "gpu":
            raise ValueError(
                f"trainer.devices={self.devices} names GPUs; on {self.accelerator} say how many processes there are: "
                f"trainer.devices={max(1, len(self.devices))}"
            )
        if not self.devices or min(self.devices) < 0 or len(set(self.devices)) < len(self.devices):
            raise ValueError(f"trainer.devices={self.devices} must name GPUs by their numbers, each once: [0,2]")
        return self

    @model_validator(mode="after")
    def _devices_together(self) -> "Trainer":
        if (self.world_size or 0) > 1 and self.strategy == "auto":
            raise ValueError("several devices need hardware=ddp (or ddp_cpu, to try it on a CPU)")
        return self

    @model_validator(mode="after")
    def _precision_is_the_devices(self) -> "Trainer":
        if self.accelerator == "cpu" and self.precision == "16-mixed":
            raise ValueError("trainer.precision=16-mixed scales gradients on a GPU; on a CPU take bf16-mixed")
        return self


class Hardware(Strict):
    """What each configuration with a `trainer` shares."""

    trainer: Trainer
    data: BaseModel
    compile: bool
    channels_last: bool
    grad_checkpointing: bool
    tf32: bool

    @model_validator(mode="after")
    def _what_only_cuda_has(self) -> "Hardware":
        for key, value in (("tf32", self.tf32), ("data.pin_memory", getattr(self.data, "pin_memory", False))):
            if value and self.trainer.accelerator != "gpu":
                raise ValueError(f"{key}=true has no effect on {self.trainer.accelerator}: set {key}=false")
        return self


def check_sharding(trainer: Trainer, distillation: Any, callbacks: dict[str, dict[str, Any]]) -> None:
    """Refuse what does not work with shards of weights.

    Raises:
        ValueError: naming it.
    """
    if trainer.strategy != "fsdp":
        return
    if distillation is not None:
        raise ValueError("distillation needs whole weights: take hardware=ddp in place of fsdp")
    averaging = [
        name for name, options in callbacks.items() if str(options.get("_target_")).endswith(("EMA", "Averaging"))
    ]
    if averaging:
        raise ValueError(
            f"callbacks.{averaging[0]} averages whole weights: leave it out, or take hardware=ddp in place of fsdp"
        )
