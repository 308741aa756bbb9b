"""Pooling tokens with the softmax weights that a few queries give them, cheap on the way back.

Autograd would write the gradient of the tokens twice, once for the weights and once for the pooling, a tensor of all
tokens each, and add them up, and then to that of whatever else reads the tokens. Here one product of twice the rank
adds it to the latter, in place.
"""

from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor


def attend(
    rows: Tensor, x: Tensor, bias: Tensor | None, scale: float, dropout: float = 0.0
) -> tuple[Tensor, Tensor, Tensor]:
    """Σ_n w_n x_n with w = softmax_n(scale · rows·x_n + bias), for few rows.

    Args:
        rows: one vector a query, [H, C] for all images or [B, H, C].
        x: tokens [B, N, C], which are keys and values.
        bias: broadcasts to [B, H, N], or None.
        scale: of the logits.
        dropout: probability of dropping a weight.

    Returns:
        the pooled tokens [B, H, C], and the weights [B, H, N], which sum to 1 unless some are dropped. The weights
        may come without a gradient: that of their sum is 0. Third, the tokens again, for what reads them next, which
        must be products or slices: their gradient is written into, and must be nobody else's.
    """
    # A compiler orders the products itself, and autocast chooses the dtype of each one.
    device = x.device.type
    left_alone = torch.compiler.is_compiling() or (
        torch.amp.is_autocast_available(device) and torch.is_autocast_enabled(device)
    )
    if not (left_alone or dropout or (bias is not None and bias.requires_grad)):
        return _Attend.apply(rows, x, bias, scale)
    weights_bhn = F.dropout(weigh(_meet(rows, x), bias, scale), dropout)
    return weights_bhn @ x, weights_bhn, x


def weigh(logits_bhn: Tensor, bias: Tensor | None, scale: float) -> Tensor:
    """softmax_n(scale · logits + bias), [B, H, N]."""
    logits_bhn = logits_bhn * scale
    return (logits_bhn if bias is None else logits_bhn + bias).softmax(dim=-1)


def _meet(rows: Tensor, x: Tensor) -> Tensor:
    """rows·x_n for each row and token, [B, H, N]."""
    # Threads share a product by its left factor's rows, or by images. One image of 4,097 tokens was seen to take half
    # the time this way, and several to take longer. A graph must not depend on the number of images.
    if not torch.compiler.is_compiling() and x.shape[0] == 1:
        return (x @ rows.mT).mT.contiguous()
    return rows @ x.mT


class _Attend(torch.autograd.Function):
    generate_vmap_rule = True

    @staticmethod
    def forward(rows: Tensor, x: Tensor, bias: Tensor | None, scale: float) -> tuple[Tensor, Tensor, Tensor]:
        weights_bhn = weigh(_meet(rows, x), bias, scale)
        return weights_bhn @ x, weights_bhn, x.view_as(x)

    @staticmethod
    def setup_context(ctx: Any, inputs: tuple[Any, ...], output: tuple[Tensor, Tensor]) -> None:
        rows, x, bias, ctx.scale = inputs
        ctx.mark_non_differentiable(output[1])
        ctx.set_materialize_grads(False)
        ctx.save_for_backward(rows, x, bias, output[1])

    @staticmethod
    def backward(
        ctx: Any, grad_bhc: Tensor | None, _: None, grad_x: Tensor | None
    ) -> tuple[Tensor | None, Tensor | None, None, None]:
        if grad_bhc is None:
            return None, grad_x, None, None
        rows, x, bias, weights_bhn = ctx.saved_tensors
        again = torch.is_grad_enabled()  # the gradient is to have one itself
        if again:  # and the weights that were kept have none
            weights_bhn = weigh(_meet(rows, x), bias, ctx.scale)
        grad_weights = _meet(grad_bhc, x)
        mean = (grad_weights * weights_bhn).sum(dim=-1, keepdim=True)
        grad_logits = weights_bhn * (grad_weights - mean) * ctx.scale
        factors = (
            torch.cat([grad_logits, weights_bhn], dim=1).mT,
            torch.cat([rows.expand(len(x), -1, -1), grad_bhc], dim=1),
        )
        if grad_x is None:
            grad_x = torch.bmm(*factors)
        else:
            grad_x = grad_x.baddbmm(*factors) if again else grad_x.baddbmm_(*factors)
        return (grad_logits @ x).sum_to_size(rows.shape), grad_x, None, None
