"""Helpers of the shared suite: building a case, and comparing it with its reference."""

from collections.abc import Callable, Sequence

import pytest
import torch
from torch import Tensor, nn

from fvit.attention import Mechanism, get

from .cases import CASES, DEFAULTS, FULL, PATHS, Case, Reference

WIDTH, HEADS = 16, 4


def over(cases: list[Case], condition: Callable[[Case], object] = lambda case: True) -> pytest.MarkDecorator:
    """Parametrise a test over the cases for which the condition holds."""
    return pytest.mark.parametrize("case", [case for case in cases if condition(case)], ids=lambda case: case.id)


every_case, every_path, every_default, every_full = over(CASES), over(PATHS), over(DEFAULTS), over(FULL)


def full_first(*marks: pytest.MarkDecorator, cases: Sequence[Case] = PATHS) -> pytest.MarkDecorator:
    """Parametrise a test over all paths or these cases, with `marks` on those that are not a mechanism's fullest."""
    marked = [case if case in FULL else pytest.param(case, marks=marks, id=case.id) for case in cases]
    return pytest.mark.parametrize("case", marked, ids=lambda case: case.id)


def prefix_of(case: Case, wished: int = 1) -> int:
    """`wished` prefix tokens, or none if the mechanism takes none."""
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
    """The case's mechanism with its layout set and random weights, or its own initialisation if `std` is 0."""
    torch.manual_seed(seed)
    module = get(case.key)(width, heads, dtype=dtype, **{**case.options, **options})
    module.set_layout(grid or case.grids[0], prefix_of(case, prefix), case.block_index)
    if std:
        randomise(module, std)
        for name in case.positive:
            nn.init.uniform_(module.get_parameter(name))
    return module


def randomise(module: nn.Module, std: float = 1.0) -> nn.Module:
    """Draw every parameter large enough for each term of the formula to matter."""
    for parameter in module.parameters():
        nn.init.normal_(parameter, std=std)
    return module


def tokens_of(module: Mechanism, batch: int = 2, seed: int = 1) -> Tensor:
    """Random tokens [B, N, C] for the module's layout and dtype."""
    rows, columns = module.grid_size
    shape = (batch, module.num_prefix_tokens + rows * columns, module.dim)
    tensors = [*module.parameters(), *module.buffers()]
    dtype = next((t.dtype for t in tensors if t.is_floating_point()), torch.float64)
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64).to(dtype)


def values_and_gradients(
    module: nn.Module, function: Callable[[Tensor], Tensor], x: Tensor, upstream: Tensor, keep: Tensor | None = None
) -> dict[str, Tensor]:
    """The kept rows of `function(x)`, and the gradients of ⟨rows, upstream⟩ with respect to x and all parameters."""
    x = x.detach().clone().requires_grad_()
    out = function(x)
    if keep is not None:
        out, upstream = out[keep], upstream[keep]
    sources = {"x": x, **dict(module.named_parameters())}
    gradients = torch.autograd.grad((out * upstream).sum(), list(sources.values()), materialize_grads=True)
    return {"out": out.detach(), **{f"d {name}": g for name, g in zip(sources, gradients, strict=True)}}


def assert_same(ours: dict[str, Tensor], theirs: dict[str, Tensor], tolerance: float = 1e-10) -> None:
    """Assert that tensors are equal up to `tolerance` times the largest element of the expected one."""
    assert ours.keys() == theirs.keys()
    for name, expected in theirs.items():
        scale = max(1.0, expected.abs().max().item()) if expected.numel() else 1.0
        torch.testing.assert_close(
            ours[name], expected, rtol=0, atol=tolerance * scale, msg=lambda text, name=name: f"{name}: {text}"
        )


def assert_equals_reference(
    module: nn.Module, reference: Reference, x: Tensor, keep: Tensor | None = None, tolerance: float = 1e-10
) -> None:
    """Assert that values and gradients of `module`, in float64, equal those of its reference."""
    upstream = torch.randn(x.shape, generator=torch.Generator().manual_seed(2), dtype=x.dtype)
    mask = {} if keep is None else {"attn_mask": keep[:, None, None]}
    ours = values_and_gradients(module, lambda x: module(x, **mask), x, upstream, keep)
    theirs = values_and_gradients(module, lambda x: reference(module, x, keep), x, upstream, keep)
    assert_same(ours, theirs, tolerance)
