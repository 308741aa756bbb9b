"""What a step takes in memory."""

from collections.abc import Callable, Iterable
from pathlib import Path

import torch
from torch import Tensor

_CLEAR, _STATUS = Path("/proc/self/clear_refs"), Path("/proc/self/status")


def saved_for_backward(forward: Callable[[], object], parameters: Iterable[Tensor] = ()) -> int:
    """Bytes that autograd keeps between `forward` and its backward pass, each storage once.

    Args:
        forward: runs with gradients recorded, and returns what they are recorded in.
        parameters: what is there anyway, and is not counted.
    """
    known = {parameter.untyped_storage().data_ptr() for parameter in parameters}
    # The tensors themselves are kept, so that no address is used twice.
    kept: dict[int, Tensor] = {}

    def keep(tensor: Tensor) -> Tensor:
        pointer = tensor.untyped_storage().data_ptr()
        if pointer not in known:
            kept[pointer] = tensor
        return tensor

    with torch.autograd.graph.saved_tensors_hooks(keep, lambda tensor: tensor):
        out = forward()
    del out
    return sum(tensor.untyped_storage().nbytes() for tensor in kept.values())


def peak_of(step: Callable[[], object], device: torch.device) -> int | None:
    """Bytes by which `step` raises the memory in use at its height.

    On CUDA those of torch's allocator; on a CPU the resident size of this process, as Linux counts it, in pages and
    with what the allocator holds back; None where neither can be had.
    """
    if device.type == "cuda":
        torch.cuda.synchronize(device)
        before = torch.cuda.memory_allocated(device)
        torch.cuda.reset_peak_memory_stats(device)
        step()
        torch.cuda.synchronize(device)
        return torch.cuda.max_memory_allocated(device) - before
    if device.type != "cpu" or not _can_reset_peak():
        return None
    before = _resident("VmRSS")
    step()
    return max(0, _resident("VmHWM") - before)


def _can_reset_peak() -> bool:
    """Whether the kernel lets this process start the highest resident size anew; if so, it is done."""
    try:
        _CLEAR.write_text("5")
    except OSError:
        return False
    return True


def _resident(name: str) -> int:
    line = next(line for line in _STATUS.read_text().splitlines() if line.startswith(name))
    return int(line.split()[1]) * 1024
