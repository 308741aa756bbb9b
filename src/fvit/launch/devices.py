"""Whether this machine has what a run asks for, and how many processes that makes."""

from typing import Any


def check_devices(trainer: dict[str, Any]) -> None:
    """Look for the accelerator and its devices, before anything is started.

    Raises:
        ValueError: it is not there, or has fewer devices; the text names the remedy.
    """
    accelerator, devices = trainer["accelerator"], trainer["devices"]
    if accelerator == "cpu":
        return
    # Imported here, because a run on CPUs is launched without torch.
    import torch

    if accelerator == "gpu":
        found = torch.cuda.device_count()
        if not found:
            raise ValueError("the hardware asked for needs a CUDA GPU and torch finds none; use hardware=cpu")
        wanted = max(devices) + 1 if isinstance(devices, list) else devices
        if isinstance(wanted, int) and wanted > found:
            raise ValueError(f"trainer.devices={devices} needs {wanted} GPUs and torch finds {found}")
    if accelerator == "mps" and not torch.backends.mps.is_available():
        raise ValueError("hardware=mps needs an Apple GPU and torch finds none; use hardware=cpu")


def local_devices(trainer: dict[str, Any]) -> int:
    """How many devices of this machine a run takes, one a process."""
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
