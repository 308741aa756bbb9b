"""What the files of the shared suite have in common: building a case, and comparing it with its reference."""

from collections.abc import Callable

import pytest
import torch
from torch import Tensor, nn

from fvit.attention import Mechanism, get

from .cases import CASES, Case, Reference

WIDTH, HEADS = 16, 4

every_case = pytest.mark.parametrize("case", CASES, ids=lambda case: case.id)
"""Runs a test once a line of the table."""


every_key = pytest.mark.parametrize("key", list(dict.fromkeys(case.key for case in CASES)))
"""Runs a test once a mechanism, for what does not depend on its options."""


def cases_where(condition: Callable[[Case], object]) -> pytest.MarkDecorator:
    """Like `every_case`, with those lines alone for which the condition holds."""
    return pytest.mark.parametrize("case", [case for case in CASES if condition(case)], ids=lambda case: case.id)


def prefix_of(case: Case, wished: int = 1) -> int:
    """`wished` prefix tokens, or none where the mechanism takes none."""
    return wished if get(case.key).takes_prefix else 0


def build(
    case: Case,
    std: float = 0.5,
    dtype: torch.dtype = torch.float64,
    seed: int = 0,
    *,
    width: int = WIDTH,
    heads: int = HEADS,
    grid: tuple[int, int] | None = None,
    prefix: int = 1,
    **options: object,
) -> Mechanism:
    """The case's mechanism, laid out and with random weights; with its own initialisation if `std` is 0."""
    torch.manual_seed(seed)
    module = get(case.key)(width, heads, dtype=dtype, **{**case.options, **options})
    module.set_layout(grid or case.grids[0], prefix_of(case, prefix), case.block_index)
    return randomise(module, std) if std else module


def randomise(module: nn.Module, std: float = 1.0) -> nn.Module:
    """Give every parameter weights so large that no term of a formula is lost beside the others."""
    for parameter in module.parameters():
        nn.init.normal_(parameter, std=std)
    return module


def tokens_of(module: Mechanism, batch: int = 2, seed: int = 1) -> Tensor:
    """Random tokens [B, N, C] that fit the module's layout and dtype."""
    rows, columns = module.grid_size
    shape = (batch, module.num_prefix_tokens + rows * columns, module.dim)
    tensors = [*module.parameters(), *module.buffers()]
    dtype = next((t.dtype for t in tensors if t.is_floating_point()), torch.float64)
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64).to(dtype)


def values_and_gradients(
    module: nn.Module, function: Callable[[Tensor], Tensor], x: Tensor, upstream: Tensor, keep: Tensor | None = None
) -> dict[str, Tensor]:
    """The kept rows of `function(x)`, and the gradients of ⟨them, upstream⟩ by x and by all weights of `module`."""
    x = x.detach().clone().requires_grad_()
    out = function(x)
    if keep is not None:
        out, upstream = out[keep], upstream[keep]
    sources = {"x": x, **dict(module.named_parameters())}
    gradients = torch.autograd.grad((out * upstream).sum(), list(sources.values()), materialize_grads=True)
    return {"out": out.detach(), **{f"d {name}": g for name, g in zip(sources, gradients, strict=True)}}


def assert_same(ours: dict[str, Tensor], theirs: dict[str, Tensor], tolerance: float = 1e-10) -> None:
    """Raise AssertionError unless each tensor is its counterpart, relative to the latter's largest element."""
    assert ours.keys() == theirs.keys()
    for name, expected in theirs.items():
        scale = max(1.0, expected.abs().max().item()) if expected.numel() else 1.0
        torch.testing.assert_close(
            ours[name], expected, rtol=0, atol=tolerance * scale, msg=lambda text, name=name: f"{name}: {text}"
        )


def assert_equals_reference(
    module: nn.Module, reference: Reference, x: Tensor, keep: Tensor | None = None, tolerance: float = 1e-10
) -> None:
    """Raise AssertionError unless values and gradients of `module`, in float64, are those of its reference."""
    upstream = torch.randn(x.shape, generator=torch.Generator().manual_seed(2), dtype=x.dtype)
    mask = {} if keep is None else {"attn_mask": keep[:, None, None]}
    ours = values_and_gradients(module, lambda x: module(x, **mask), x, upstream, keep)
    theirs = values_and_gradients(module, lambda x: reference(module, x, keep), x, upstream, keep)
    assert_same(ours, theirs, tolerance)
