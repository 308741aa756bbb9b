"""CUDA's autocast on a CPU, whose own autocast casts fewer functions and so hides what a GPU overflows or rounds."""

from typing import Any, Self

import torch
from torch import Tensor
from torch.overrides import TorchFunctionMode

# https://docs.pytorch.org/docs/stable/amp.html#cuda-ops-that-can-autocast-to-float16 and …-to-float32, and what torch
# builds on the first or has added to the second since: einsum, attention, vector_norm, rms_norm, interpolate.
SHORT = {
    *("matmul", "__matmul__", "__rmatmul__", "mm", "mv", "bmm", "addmm", "addmv", "addr", "addbmm", "baddbmm"),
    *("linear", "bilinear", "einsum", "chain_matmul", "multi_dot", "scaled_dot_product_attention", "prelu"),
    *("conv1d", "conv2d", "conv3d", "conv_transpose1d", "conv_transpose2d", "conv_transpose3d"),
}
LONG = {
    *("__pow__", "__rpow__", "__rdiv__", "__rtruediv__", "pow", "exp", "expm1", "log", "log10", "log1p", "log2"),
    *("reciprocal", "rsqrt", "acos", "asin", "cosh", "sinh", "tan", "erfinv", "softplus", "softmax", "softmin"),
    *("log_softmax", "cumsum", "cumprod", "sum", "prod", "norm", "normalize", "dist", "cdist", "renorm"),
    *("linalg_vector_norm", "linalg_matrix_norm", "layer_norm", "group_norm", "rms_norm", "cosine_similarity"),
    *("cross_entropy", "nll_loss", "mse_loss", "l1_loss", "smooth_l1_loss", "kl_div", "logsumexp", "interpolate"),
}


def cast(value: Any, dtype: torch.dtype) -> Any:
    """Floats up to 32 bits as `dtype`, in lists too; float64 is left alone, as autocast does."""
    if isinstance(value, list | tuple):
        return type(value)(cast(item, dtype) for item in value)
    short = isinstance(value, Tensor) and value.is_floating_point() and value.dtype != torch.float64
    return value.to(dtype) if short else value


class CudaAutocast(TorchFunctionMode):
    """``torch.autocast("cuda", dtype)`` for CPU tensors; ``torch.autocast("cpu", enabled=False)`` suspends it."""

    def __init__(self, dtype: torch.dtype) -> None:
        super().__init__()
        self.dtype = dtype
        self.autocast = torch.autocast("cpu", dtype=dtype)

    def __enter__(self) -> Self:
        self.autocast.__enter__()
        return super().__enter__()

    def __exit__(self, *error: Any) -> None:
        super().__exit__(*error)
        self.autocast.__exit__(*error)

    def __torch_function__(self, function: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        kwargs, name = kwargs or {}, getattr(function, "__name__", "")
        if torch.is_autocast_enabled("cpu") and name in SHORT | LONG:
            dtype = self.dtype if name in SHORT else torch.float32
            args, kwargs = cast(args, dtype), {key: cast(value, dtype) for key, value in kwargs.items()}
        return function(*args, **kwargs)
