"""Time, waits and kernels on a device."""

import statistics
import time
import warnings
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import contextmanager

import torch

Step = Callable[[], object]


def synchronise(device: torch.device) -> None:
    """Wait until `device` is done."""
    if device.type == "cuda":
        torch.cuda.synchronize(device)


def milliseconds(step: Step, device: torch.device, runs: int = 15, warmup: int = 3) -> float:
    """Median time of a step on the device: between events on CUDA, which do not wait in between."""
    if device.type != "cuda":
        step()
        return statistics.median(_host(step, device) for _ in range(3))
    for _ in range(warmup):
        step()
    pairs = [[torch.cuda.Event(enable_timing=True) for _ in range(2)] for _ in range(runs)]
    for start, end in pairs:
        start.record()
        step()
        end.record()
    synchronise(device)
    return statistics.median(start.elapsed_time(end) for start, end in pairs)


def host_milliseconds(step: Step, device: torch.device, runs: int = 10) -> float:
    """Median time until the host has launched a step on an idle device."""
    step()
    times = []
    for _ in range(runs):
        synchronise(device)
        times.append(_host(step, device, wait=False))
    synchronise(device)
    return statistics.median(times)


def kernels(step: Step, device: torch.device) -> int | None:
    """The number of kernels that a step launches; None on a CPU."""
    if device.type != "cuda":
        return None
    from torch.profiler import ProfilerActivity, profile

    step()
    synchronise(device)
    with profile(activities=[ProfilerActivity.CUDA]) as profiler:
        step()
        synchronise(device)
    return sum(event.count for event in profiler.key_averages() if event.device_type.name == "CUDA")


@contextmanager
def counting_waits(device: torch.device) -> Iterator[Counter[str]]:
    """Counts what makes the host wait for CUDA, by file and line; it stays empty on a CPU.

    torch warns of synchronising calls only when asked; what those of libraries cost is not seen.
    """
    found: Counter[str] = Counter()
    if device.type != "cuda":
        yield found
        return
    before = warnings.showwarning

    def note(message, category, filename, lineno, *further):
        if "synchronizing" in str(message):
            found[f"{filename.rpartition('site-packages/')[2].rpartition('/src/')[2]}:{lineno}"] += 1
        else:
            before(message, category, filename, lineno, *further)

    with warnings.catch_warnings():
        warnings.simplefilter("always")
        warnings.showwarning = note
        torch.cuda.set_sync_debug_mode("warn")
        try:
            yield found
        finally:
            torch.cuda.set_sync_debug_mode("default")


def peak_gib(device: torch.device) -> float | None:
    """The peak of torch's allocator since the last call; None on a CPU."""
    if device.type != "cuda":
        return None
    peak = torch.cuda.max_memory_allocated(device) / 2**30
    torch.cuda.empty_cache()
    torch.cuda.reset_peak_memory_stats(device)
    return peak


def _host(step: Step, device: torch.device, wait: bool = True) -> float:
    start = time.perf_counter()
    step()
    if wait:
        synchronise(device)
    return 1e3 * (time.perf_counter() - start)
