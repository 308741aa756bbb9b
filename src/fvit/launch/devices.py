"""The devices that a run asks for."""

from typing import Any

from fvit.config.cores import usable_cores
from fvit.config.wording import count

# Processes that may share a core, to try what a run does on several devices.
_SHARING = 4


def check_devices(trainer: dict[str, Any]) -> None:
    """Check that the requested devices exist, before anything is started.

    Raises:
        ValueError: the accelerator is missing, or has fewer devices.
    """
    accelerator, devices = trainer["accelerator"], trainer["devices"]
    if accelerator == "cpu":
        if isinstance(devices, int) and devices > (most := max(_SHARING, usable_cores())):
            raise ValueError(
                f"trainer.devices={devices} would start as many processes on {count(usable_cores(), 'CPU core')}; take "
                f"at most {most}"
            )
        return
    # Imported here, because a run on CPUs is launched without torch.
    import torch

    if accelerator == "gpu":
        found = torch.cuda.device_count()
        if not found:
            raise ValueError("trainer.accelerator=gpu needs a CUDA GPU and torch finds none; use hardware=cpu")
        wanted = max(devices) + 1 if isinstance(devices, list) else devices
        if isinstance(wanted, int) and wanted > found:
            raise ValueError(f"trainer.devices={devices} needs {wanted} GPUs and torch finds {found}")
    if accelerator == "mps" and not torch.backends.mps.is_available():
        raise ValueError("hardware=mps needs an Apple GPU and torch finds none; use hardware=cpu")


def local_devices(trainer: dict[str, Any]) -> int:
    """The number of devices on this machine, each of which gets a process."""
    devices = trainer["devices"]
    if isinstance(devices, list):
        return len(devices)
    if devices != "auto":
        return devices
    if trainer["accelerator"] != "gpu":
        return 1
    import torch

    return max(1, torch.cuda.device_count())


def world_size(trainer: dict[str, Any]) -> int:
    """Processes of a run on all machines.

    Raises:
        ValueError: this machine lacks the accelerator or enough devices.
    """
    check_devices(trainer)
    return local_devices(trainer) * trainer["num_nodes"]
