"""Schema of the group `hardware`: the Trainer's devices and the runtime flags."""

from typing import Literal

from pydantic import BaseModel, model_validator

from fvit.config.schemas.fields import NonNegative, Open, Positive, PositiveFloat, PositiveFraction, Strict


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
    # No time intervals, which Lightning also takes: the clocks of ranks differ.
    val_check_interval: Positive | PositiveFraction | None = None

    @property
    def world_size(self) -> int | None:
        """Number of ranks; None if that depends on the GPUs of this machine."""
        if self.devices == "auto":
            return None
        return self.num_nodes * (len(self.devices) if isinstance(self.devices, list) else self.devices)

    @model_validator(mode="after")
    def _has_devices(self) -> "Trainer":
        if self.devices is None or self.num_nodes is None:
            raise ValueError(
                "the number of processes is unknown: hardware=torchrun is for "
                "`torchrun --nproc-per-node=N -m fvit.train …`, hardware=slurm for `srun fvit-train …` in a job with "
                "--nodes and --ntasks-per-node. Use hardware=ddp to have the processes started for you"
            )
        if isinstance(self.devices, list):
            if self.accelerator != "gpu":
                raise ValueError(
                    f"trainer.devices={self.devices} lists GPUs; on {self.accelerator} give a number of processes: "
                    f"trainer.devices={max(1, len(self.devices))}"
                )
            if not self.devices or min(self.devices) < 0 or len(set(self.devices)) < len(self.devices):
                raise ValueError(f"trainer.devices={self.devices} must list indices of GPUs, each once: [0,2]")
        if (self.world_size or 0) > 1 and self.strategy == "auto":
            raise ValueError("several devices need hardware=ddp (or ddp_cpu, to try it on a CPU)")
        return self

    @model_validator(mode="after")
    def _precision_suits_the_device(self) -> "Trainer":
        if self.accelerator == "cpu" and self.precision == "16-mixed":
            raise ValueError("trainer.precision=16-mixed needs a GPU to scale gradients; on a CPU use bf16-mixed")
        return self


class DDP(Strict):
    gradient_as_bucket_view: bool = True
    static_graph: bool = False
    timeout: PositiveFloat = 30


class Hardware(Strict):
    """The keys of every command with a `trainer`."""

    trainer: Trainer
    ddp: DDP
    data: BaseModel
    compile: Literal[True, False, "default", "reduce-overhead", "max-autotune"]
    channels_last: bool
    grad_checkpointing: bool
    tf32: bool
    fast_norm: bool

    @model_validator(mode="after")
    def _needs_cuda(self) -> "Hardware":
        for key, value in (("tf32", self.tf32), ("data.pin_memory", getattr(self.data, "pin_memory", False))):
            if value and self.trainer.accelerator != "gpu":
                raise ValueError(f"{key}=true has no effect on {self.trainer.accelerator}: set {key}=false")
        if self.compile == "reduce-overhead" and self.trainer.accelerator != "gpu":
            raise ValueError(
                f"compile=reduce-overhead records CUDA graphs, which {self.trainer.accelerator} does not have: set "
                "compile=default"
            )
        return self

    @model_validator(mode="after")
    def _ddp_and_norms_have_an_effect(self) -> "Hardware":
        strategy, precision = self.trainer.strategy, self.trainer.precision
        used = {"auto": set(), "fsdp": {"timeout"}}.get(strategy, set(DDP.model_fields))
        for key, value in self.ddp:
            if key not in used and value != (default := DDP.model_fields[key].default):
                raise ValueError(
                    f"ddp.{key}={value} has no effect with trainer.strategy={strategy}: leave it at {default}, or use "
                    "hardware=ddp"
                )
        if self.fast_norm and not precision.endswith("mixed"):
            raise ValueError(
                f"fast_norm=true has no effect with trainer.precision={precision}: normalisation has the precision of "
                "its input there; set fast_norm=false"
            )
        return self
