"""Model FLOPs utilisation (MFU): the rate of a model's products relative to that of one large matrix product.

Source: Chowdhery et al., "PaLM: Scaling Language Modeling with Pathways", arXiv:2204.02311, appendix B. The ceiling is
measured here; others take it from a data sheet.
"""

import torch

from fvit.cost.timing import time_in_turns


def matmul_rate(device: torch.device, dtype: torch.dtype = torch.bfloat16, side: int | None = None) -> float:
    """FLOP/s of a square matrix product, median of at most 15 runs or a second; random numbers are left alone.

    Args:
        device: where to measure.
        dtype: of the matrices; float32 on CUDA runs in TF32 where that is allowed.
        side: of the matrices; 8,192 on CUDA and 512 elsewhere by default.
    """
    side = side or (8192 if device.type == "cuda" else 512)
    generator = torch.Generator(device).manual_seed(0)
    a, b = (torch.randn(side, side, generator=generator, device=device).to(dtype) for _ in range(2))
    timing = time_in_turns({"product": lambda: a @ b}, runs=15, budget=1.0, device=device, queued=True)["product"]
    return 2 * side**3 / timing.median


def mfu(macs: float, images_per_s: float, rate: float) -> float:
    """The share of `rate`, in FLOP/s, at which training uses its MACs: two FLOPs each, and three passes per step.

    The backward pass takes two products for each of the forward pass.

    Args:
        macs: of one image in the forward pass.
        images_per_s: of training.
        rate: of `matmul_rate`, times the number of devices.
    """
    return 3 * 2 * macs * images_per_s / rate
