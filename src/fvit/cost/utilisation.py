"""What a device reaches in matrix products, and how much of that a model uses."""

import statistics
import time
from itertools import pairwise

import torch

_WARM_UP, _RUNS = 3, 10


def matmul_rate(device: torch.device, dtype: torch.dtype = torch.bfloat16, side: int = 8192) -> float:
    """Floating-point operations per second of a product of two square matrices, the median of ten.

    Args:
        device: by events on CUDA, by the host's clock elsewhere.
        dtype: of the matrices.
        side: of the matrices; 8,192 keeps a GPU busy and takes 0.4 GB in 16 bits.
    """
    # Of its own, so that a run's dropout does not depend on it.
    generator = torch.Generator(device).manual_seed(0)
    a, b = (torch.randn(side, side, device=device, dtype=dtype, generator=generator) for _ in range(2))
    out = torch.empty_like(a)
    for _ in range(_WARM_UP):
        torch.mm(a, b, out=out)
    if device.type == "cuda":
        events = [torch.cuda.Event(enable_timing=True) for _ in range(_RUNS + 1)]
        events[0].record()
        for event in events[1:]:
            torch.mm(a, b, out=out)
            event.record()
        events[-1].synchronize()
        seconds = [before.elapsed_time(after) / 1000 for before, after in pairwise(events)]
        del a, b, out
        torch.cuda.empty_cache()
    else:
        seconds = []
        for _ in range(_RUNS):
            start = time.perf_counter()
            torch.mm(a, b, out=out)
            seconds.append(time.perf_counter() - start)
    return 2 * side**3 / statistics.median(seconds)


def mfu(macs: float, images_per_s: float, rate: float) -> float:
    """Model FLOPs utilisation in training: the share of `rate` that the model's own operations make up.

    A step has three forward passes' worth of them, one forward and two backward, whatever is recomputed; a MAC is two.

    Args:
        macs: of a forward pass with one image.
        images_per_s: images that are trained on, on all devices.
        rate: operations per second of all devices, see `matmul_rate`.

    References:
        Chowdhery et al., PaLM, 2022, appendix B. arXiv:2204.02311
    """
    return 3 * 2 * macs * images_per_s / rate
