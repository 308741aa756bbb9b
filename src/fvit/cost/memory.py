"""What a step takes in memory, and making sure that one which takes too much fails alone."""

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
    """Bytes that autograd keeps between `forward` and its backward pass, each storage once.

    Args:
        forward: runs with gradients recorded, and returns what they are recorded in.
        present: what is there anyway, such as weights, and is not counted.
    """
    known = {tensor.untyped_storage().data_ptr() for tensor in present}
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
    """Bytes by which `step` raises the memory in use at its height; None where that cannot be had.

    The step runs twice, and the second time is measured: what libraries set up once for all is left out.

    On CUDA these are the bytes of torch's allocator. On a CPU it is the resident size of this process, as Linux counts
    it. What the C library keeps of memory that was freed before is given back first, since a step that finds room there
    would seem to take none. Figures are in whole pages and good to about a MiB; what libraries hold from call to call
    is not in them. Without Linux and glibc, or with another allocator in its place that keeps more, there is no honest
    figure: None on macOS, and too little under jemalloc.
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
    """Bytes in use at their height, since `reset_peak`: torch's on a CUDA device, else this process's resident size."""
    if device.type == "cuda":
        return torch.cuda.max_memory_allocated(device)
    if _CLEAR.is_file():
        return _read(_STATUS, "VmHWM")
    import resource

    unit = 1 if sys.platform == "darwin" else 1024
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * unit


def reset_peak(device: torch.device) -> bool:
    """Whether `peak` starts anew, from what is in use now; memory that was freed is given back, and does not count."""
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
    """Whether `error` says that memory was not enough, of a GPU or of this machine."""
    return isinstance(error, MemoryError | torch.OutOfMemoryError) or "can't allocate memory" in str(error)


@contextmanager
def bounded() -> Iterator[None]:
    """On Linux, let an allocation fail for which the machine has no memory.

    The kernel grants more than there is, and ends the whole process once it is used. Inside, torch raises RuntimeError
    in its place ("can't allocate memory").
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
    """Bytes that can still be had, in this container if it has a limit; None if the system does not tell."""
    if not (_MACHINE.is_file() and _STATUS.is_file()):
        return None
    found = [_read(_MACHINE, "MemAvailable")]
    most, used = _CONTAINER / "memory.max", _CONTAINER / "memory.current"
    if most.is_file() and (text := most.read_text().strip()) != "max":
        found.append(max(0, int(text) - int(used.read_text())))
    return min(found)


def _give_back() -> bool:
    """Whether glibc has returned to the system what was freed."""
    try:
        ctypes.CDLL(None).malloc_trim(0)
    except (AttributeError, OSError, TypeError):  # another C library, or, on Windows, none under that name
        return False
    return True


def _read(table: Path, name: str) -> int:
    """A line of /proc, in bytes."""
    line = next(line for line in table.read_text().splitlines() if line.startswith(f"{name}:"))
    return int(line.split()[1]) * 1024
