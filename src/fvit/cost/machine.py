"""What figures were measured on."""

import os
import platform
from pathlib import Path
from typing import Any

import torch

_PROCESSORS = Path("/proc/cpuinfo")


def open_device(name: str) -> torch.device:
    """The device.

    Raises:
        ValueError: torch does not find one.
    """
    there = {"cpu": True, "cuda": torch.cuda.is_available(), "mps": torch.backends.mps.is_available()}
    if not there[name]:
        raise ValueError(f"device={name}: torch finds none here; use device=cpu")
    return torch.device(name)


def fix_threads(threads: int | None) -> None:
    """Have torch use so many threads of the CPU, and as many as now if None, whatever libraries would rather."""
    torch.set_num_threads(threads or torch.get_num_threads())


def machine(device: torch.device) -> dict[str, Any]:
    """What of this machine and of how it is used bears on the figures."""
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
    """As the kernel names it; Python often knows no more than the architecture."""
    lines = _PROCESSORS.read_text().splitlines() if _PROCESSORS.is_file() else []
    named = next((line.partition(":")[2].strip() for line in lines if line.startswith("model name")), "")
    return named or platform.processor() or platform.machine()
