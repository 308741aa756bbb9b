"""Models under fixed conditions: device, threads, precision, compilation, and the steps that are measured."""

import math
import os
import platform
import time
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager, nullcontext
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from timm.layers import to_2tuple
from torch import Tensor, nn

from fvit.attention.base import Size
from fvit.cost.timing import CPU, Step

_CPUINFO = Path("/proc/cpuinfo")
_STAT = Path("/proc/stat")
# Compiled versions of one function: all models of a class, batch sizes, inference and training.
_VERSIONS = 1000

DTYPES = {"float32": torch.float32, "bf16": torch.bfloat16}
"""Of products, by precision."""


@dataclass(frozen=True)
class Conditions:
    """How a model is run.

    Attributes:
        res: of the images in pixels: the side of squares, or height and width.
        precision: ``float32``, or ``bf16`` by autocast.
        compiled: whether it runs through torch.compile.
        device: where it runs.
    """

    res: int | Size
    precision: str = "float32"
    compiled: bool = False
    device: torch.device = CPU

    @property
    def size(self) -> str:
        """``224``, or ``192×128`` for height and width."""
        height, width = to_2tuple(self.res)
        return str(height) if height == width else f"{height}×{width}"

    @property
    def pixels(self) -> int:
        """The pixels of one image."""
        return math.prod(to_2tuple(self.res))

    @property
    def manner(self) -> str:
        """Precision and compilation as a suffix of names; empty for float32 and eager."""
        return f" {self.precision}" * (self.precision != "float32") + " compiled" * self.compiled


class Workload:
    """A model ready to run on random images.

    Args:
        model: maps images [B, 3, H, W] to logits; moved to the device, and compiled in place for each batch size. Run
            several compiled models inside `compiling`.
        conditions: how it is run.
    """

    def __init__(self, model: nn.Module, conditions: Conditions) -> None:
        self.model, self.conditions = model.to(conditions.device), conditions
        if conditions.compiled:
            self.model.compile(dynamic=False)

    def forward(self, batch: int) -> Step:
        """Inference of one batch."""
        images = self._images(batch)

        def step() -> None:
            with torch.inference_mode(), autocast(self.conditions.device, self.conditions.precision):
                self.model.eval()(images)

        return step

    def loss(self, batch: int) -> Callable[[], Tensor]:
        """Forward pass of one batch in training."""
        images = self._images(batch)

        def step() -> Tensor:
            with autocast(self.conditions.device, self.conditions.precision):
                return self.model.train()(images).float().logsumexp(dim=1).mean()

        return step

    def backward(self, batch: int) -> Step:
        """Forward and backward pass."""
        loss = self.loss(batch)

        def step() -> None:
            loss().backward()
            self.model.zero_grad()

        return step

    def train(self, batch: int) -> Step:
        """Forward, backward and a step of AdamW with learning rate 0."""
        loss = self.loss(batch)
        optimizer = torch.optim.AdamW(self.model.parameters(), lr=0.0, weight_decay=0.0)

        def step() -> None:
            loss().backward()
            optimizer.step()
            optimizer.zero_grad()

        return step

    def _images(self, batch: int) -> Tensor:
        generator = torch.Generator().manual_seed(0)
        images = torch.randn(batch, 3, *to_2tuple(self.conditions.res), generator=generator)
        return images.to(self.conditions.device)


def autocast(device: torch.device, precision: str) -> AbstractContextManager[object]:
    """The context in which a model has a precision of `DTYPES`: autocast to it, or none for float32."""
    return nullcontext() if precision == "float32" else torch.autocast(device.type, DTYPES[precision])


@contextmanager
def with_tf32(conditions: Conditions) -> Iterator[None]:
    """Inside, what remains in float32 of bf16 autocast on CUDA is multiplied in TF32, as in training."""
    before = torch.get_float32_matmul_precision()
    try:
        if conditions.device.type == "cuda":
            torch.set_float32_matmul_precision("highest" if conditions.precision == "float32" else "high")
        yield
    finally:
        torch.set_float32_matmul_precision(before)


@contextmanager
def compiling() -> Iterator[None]:
    """Inside, every compiled model runs compiled or fails; afterwards all compiled code is dropped.

    All models of a class share the code of their forward pass, and by default torch compiles one piece of code at most
    8 times. After that it runs eagerly and only logs it.
    """
    from torch._dynamo import config  # takes a second to import

    limits = {"recompile_limit": _VERSIONS, "accumulated_recompile_limit": _VERSIONS}
    with config.patch(**limits, fail_on_recompile_limit_hit=True):
        try:
            yield
        finally:
            torch.compiler.reset()


def open_device(name: str) -> torch.device:
    """The device `name`, ``cpu``, ``cuda`` or ``mps``.

    Raises:
        ValueError: torch does not find one.
    """
    available = {"cpu": True, "cuda": torch.cuda.is_available(), "mps": torch.backends.mps.is_available()}
    if not available[name]:
        raise ValueError(f"device={name}: torch finds none here; use device=cpu")
    return torch.device(name)


def fix_threads(threads: int | None) -> None:
    """Fix the number of CPU threads, to the present one if None, so that no library changes it."""
    torch.set_num_threads(threads or torch.get_num_threads())


def busy_cpus(seconds: float = 0.2) -> float | None:
    """How many of the CPUs that this process may use are busy with other work; None where there is no /proc/stat."""
    if not _STAT.is_file():
        return None
    before = _ticks()
    time.sleep(seconds)
    after = _ticks()
    passed = [[new - old for new, old in zip(after[cpu], before[cpu], strict=True)] for cpu in after]
    # The fourth and fifth count idle time and waiting for a disk.
    return sum(1 - sum(ticks[3:5]) / sum(ticks) for ticks in passed if any(ticks))


def _ticks() -> dict[str, list[int]]:
    """By CPU, the ticks that it has spent in each state since the system started."""
    allowed = {f"cpu{number}" for number in os.sched_getaffinity(0)}
    lines = (line.split() for line in _STAT.read_text().splitlines())
    return {name: [int(count) for count in counts[:8]] for name, *counts in lines if name in allowed}


def machine(device: torch.device) -> dict[str, Any]:
    """The hardware and settings that affect measurements."""
    on_gpu = device.type == "cuda"
    return {
        "device": device.type,
        "name": torch.cuda.get_device_name(device) if on_gpu else _processor(),
        "threads": torch.get_num_threads(),
        "cpus": os.cpu_count(),
        "waiting_threads": os.environ.get("OMP_WAIT_POLICY", "as libraries choose").lower(),
        "torch": torch.__version__,
        **({"cuda": torch.version.cuda, "cudnn": torch.backends.cudnn.version()} if on_gpu else {}),
    }


def _processor() -> str:
    """The kernel's name of the CPU; Python often knows only the architecture."""
    lines = _CPUINFO.read_text().splitlines() if _CPUINFO.is_file() else []
    named = next((line.partition(":")[2].strip() for line in lines if line.startswith("model name")), "")
    return named or platform.processor() or platform.machine()
