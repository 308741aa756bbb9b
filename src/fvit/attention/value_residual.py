"""Value residual: the values of the first block, mixed into those of all later ones.

Source: Zhou et al., "Value Residual Learning", arXiv:2410.17897.

    V_n ← λ₁ V_1 + λ₂ V_n      in block n = 2, 3, …, with λ₁ = λ₂ = ½, fixed (Identity-ResFormer) or learned from there
                               (Learnable-ResFormer)

timm's blocks pass on tokens and nothing else. The blocks of a model therefore share a `FirstValues`, which holds V_1
from the first block to the end of the forward pass.
"""

from typing import Any

import torch
from torch import Tensor, nn

KINDS = ("fixed", "learned")


class FirstValues:
    """V_1 [B, H, N, d] of one model, during a forward pass. Copies of the model share another one, which is empty."""

    def __init__(self) -> None:
        self.values: Tensor | None = None

    def __getstate__(self) -> dict[str, Any]:
        return {"values": None}

    def release(self) -> None:
        """Forget V_1 at the end of a forward pass."""
        self.values = None

    @torch.compiler.disable
    def release_until_backward(self, out: Tensor | tuple[Tensor, ...]) -> None:
        """Forget V_1 at the end of a forward pass that returns `out`, until the backward pass comes to `out`.

        Gradient checkpointing computes the blocks once more then, maybe after another forward pass with another V_1.
        """
        values, self.values = self.values, None
        for tensor in out if isinstance(out, tuple) else (out,):
            if tensor.requires_grad:
                tensor.register_hook(lambda _: setattr(self, "values", values))


class ValueResidual(nn.Module):
    """The mixture for one block: values [B, H, N, d] to the same.

    Args:
        kind: one of `KINDS`.
        factory: device and dtype of λ.

    Raises:
        ValueError: unknown `kind`.
    """

    def __init__(self, kind: str, **factory: Any) -> None:
        super().__init__()
        if kind not in KINDS:
            raise ValueError(f"value_residual={kind!r} must be one of {', '.join(KINDS)}, or null for none")
        self.lambdas = nn.Parameter(torch.full((2,), 0.5, **factory)) if kind == "learned" else None
        self.block_index = 0
        self.first: FirstValues | None = None

    def set_block(self, index: int) -> None:
        """Set the index of the block, counted from 0. The first block has no λ."""
        self.block_index = index
        if index == 0:
            self.lambdas = None

    def forward(self, v: Tensor) -> Tensor:
        if self.first is None:
            raise RuntimeError(
                "a value residual needs the other blocks: exchange the attention of a whole model with fvit.exchange"
            )
        if self.block_index == 0:
            self.first.values = v
            return v
        first = self.first.values
        if first is None:
            raise RuntimeError(
                f"block {self.block_index} has a value residual, but the first block has not run before it in this pass"
            )
        if self.lambdas is None:
            return 0.5 * (first + v)
        return self.lambdas[0] * first + self.lambdas[1] * v
