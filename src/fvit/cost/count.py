"""Parameters and multiply-accumulates of a model, counted without computing anything."""

import math
from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor, nn
from torch.func import functional_call
from torch.utils.flop_counter import FlopCounterMode


@dataclass(frozen=True)
class Cost:
    """What one image costs.

    Attributes:
        params: number of parameters.
        macs_paper: multiply-accumulates of convolutions and linear layers alone, as papers print them under the name
            "FLOPs": the products inside attention are left out.
        macs: multiply-accumulates of every product: also matrix products without weights, and elementwise products
            of two tensors.
    """

    params: int
    macs_paper: int
    macs: int


def count(model: nn.Module, input_size: Sequence[int] | int) -> Cost:
    """Count parameters and MACs of one forward pass in inference.

    The pass runs on the meta device, so that no fused kernel hides its products from the counter and nothing is
    computed; `model` itself is not touched.

    Args:
        model: any module that maps one image batch.
        input_size: (C, H, W), or the side of a square RGB image in pixels.
    """
    shape = (3, input_size, input_size) if isinstance(input_size, int) else tuple(input_size)
    # Detached: a view of a parameter, as CaiT makes of its class token, is otherwise one that torch's counter rejects.
    meta = {name: t.detach().to("meta") for name, t in [*model.named_parameters(), *model.named_buffers()]}
    image = torch.empty(1, *shape, device="meta", dtype=_dtype(model))
    paper = 0

    def add(module: nn.Module, inputs: tuple[Tensor, ...], output: Tensor) -> None:
        nonlocal paper
        per_output = module.in_features if isinstance(module, nn.Linear) else math.prod(module.weight.shape[1:])
        paper += output.numel() * per_output

    layers = [m for m in model.modules() if isinstance(m, nn.Linear | nn.Conv1d | nn.Conv2d | nn.Conv3d)]
    hooks = [layer.register_forward_hook(add) for layer in layers]
    was_training = [m for m in model.modules() if m.training]
    model.eval()
    counter = FlopCounterMode(display=False, custom_mapping={torch.ops.aten.mul: _product_flops})
    try:
        with torch.no_grad(), counter:
            functional_call(model, meta, (image,))
    finally:
        for hook in hooks:
            hook.remove()
        for module in was_training:
            module.training = True
    params = sum(p.numel() for p in model.parameters())
    return Cost(params=params, macs_paper=paper, macs=counter.get_total_flops() // 2)


def _product_flops(left: object, right: object, *, out_shape: Sequence[int], **kwargs: object) -> int:
    """Elementwise product of two tensors: one MAC an output element; scaling by a number counts nothing."""
    if not all(isinstance(factor, torch.Size) and math.prod(factor) > 1 for factor in (left, right)):
        return 0
    return 2 * math.prod(out_shape)


def _dtype(model: nn.Module) -> torch.dtype:
    return next((p.dtype for p in model.parameters()), torch.float32)
