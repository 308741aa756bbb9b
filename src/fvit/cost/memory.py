"""Memory of a step, and a limit so that a step that needs too much fails instead of the process."""

import ctypes
import sys
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from pathlib import Path

import torch
from torch import Tensor

_STATUS, _CLEAR = Path("/proc/self/status"), Path("/proc/self/clear_refs")
_MACHINE, _CONTAINER = Path("/proc/meminfo"), Path("/sys/fs/cgroup")


def saved_for_backward(forward: Callable[[], object], present: Iterable[Tensor] = ()) -> int:
    """Bytes of activations that autograd saves in `forward` for the backward pass, each storage once.

    Args:
        forward: runs a forward pass and returns its output.
        present: tensors that are not counted, such as weights.
    """
    known = {tensor.untyped_storage().data_ptr() for tensor in present}
    # Holds the tensors, so that no address is reused.
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
    """Bytes by which `step` raises the peak of memory in use; None if that cannot be measured.

    The step runs twice, and the second run is measured, without one-time initialisation of libraries.

    On CUDA, bytes of torch's allocator. On a CPU, the resident size of this process on Linux, accurate to about a MiB;
    memory that glibc holds back after a free is returned to the system first, because a step that reuses it would seem
    to need none. None without Linux and glibc, and too small with allocators such as jemalloc.
    """
    if device.type == "cuda":
        step()
        torch.cuda.synchronize(device)
        before = torch.cuda.memory_allocated(device)
        reset_peak(device)
        step()
        torch.cuda.synchronize(device)
        return peak(device) - before
    if device.type != "cpu":
        return None
    step()
    if not reset_peak(device):
        return None
    before = _read(_STATUS, "VmRSS")
    step()
    return max(0, peak(device) - before)


def peak(device: torch.device) -> int:
    """Peak bytes in use since `reset_peak`: torch's on a CUDA device, otherwise this process's resident size."""
    if device.type == "cuda":
        return torch.cuda.max_memory_allocated(device)
    if _CLEAR.is_file():
        return _read(_STATUS, "VmHWM")
    import resource

    unit = 1 if sys.platform == "darwin" else 1024
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * unit


def reset_peak(device: torch.device) -> bool:
    """Restart `peak` from the memory in use now, after returning freed memory; False if the system cannot."""
    if device.type == "cuda":
        torch.cuda.reset_peak_memory_stats(device)
        return True
    if not _give_back():
        return False
    try:
        _CLEAR.write_text("5")
    except OSError:
        return False
    return True


def ran_out(error: BaseException) -> bool:
    """Whether `error` means out of memory, on a GPU or on this machine."""
    return isinstance(error, MemoryError | torch.OutOfMemoryError) or "can't allocate memory" in str(error)


@contextmanager
def bounded() -> Iterator[None]:
    """On Linux, make allocations beyond the available memory fail.

    The kernel overcommits and would kill the process. Inside, torch raises RuntimeError ("can't allocate memory").
    """
    available = _available()
    if available is None:
        yield
        return
    import resource

    limits = resource.getrlimit(resource.RLIMIT_DATA)
    bound = _read(_STATUS, "VmData") + available
    if limits[0] != resource.RLIM_INFINITY:
        bound = min(bound, limits[0])
    resource.setrlimit(resource.RLIMIT_DATA, (bound, limits[1]))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_DATA, limits)


def _available() -> int | None:
    """Available bytes, within the limit of this container; None if unknown."""
    if not (_MACHINE.is_file() and _STATUS.is_file()):
        return None
    found = [_read(_MACHINE, "MemAvailable")]
    most, used = _CONTAINER / "memory.max", _CONTAINER / "memory.current"
    if most.is_file() and (text := most.read_text().strip()) != "max":
        found.append(max(0, int(text) - int(used.read_text())))
    return min(found)


def _give_back() -> bool:
    """Have glibc return freed memory to the system; False without glibc."""
    try:
        ctypes.CDLL(None).malloc_trim(0)
    except (AttributeError, OSError, TypeError):  # another C library, or, on Windows, none under that name
        return False
    return True


def _read(table: Path, name: str) -> int:
    """A value of a file in /proc, in bytes."""
    line = next(line for line in table.read_text().splitlines() if line.startswith(f"{name}:"))
    return int(line.split()[1]) * 1024
