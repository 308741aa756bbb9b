"""Parameters and multiply-accumulates of a model, counted without computing anything."""

import math
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass

import torch
from torch import Tensor, nn
from torch.func import functional_call
from torch.utils.flop_counter import FlopCounterMode

from fvit.attention import Mechanism
from fvit.cost.formulas import FORMULAS


@dataclass(frozen=True)
class Cost:
    """What one image costs.

    Attributes:
        params: number of parameters.
        macs_paper: multiply-accumulates of convolutions and linear layers alone, as papers print them under the name
            "FLOPs": the products inside attention are left out, and a mechanism is evaluated as its formula is written.
        macs: multiply-accumulates of every product that is computed: also matrix products without weights, elementwise
            products of two tensors, Fourier transforms (5/2 n log₂ n for one of n complex numbers, half of it for real
            ones) and average pooling (one for each element of a window), in the form that a mechanism chooses for this
            size.
    """

    params: int
    macs_paper: int
    macs: int

    def metrics(self) -> dict[str, float]:
        """By the names of a run's metrics."""
        return {"cost/params": self.params, "cost/macs": self.macs, "cost/macs_paper": self.macs_paper}


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
    was_training = [m for m in model.modules() if m.training]
    model.eval()
    counter = FlopCounterMode(display=False, custom_mapping=FORMULAS)
    try:
        with torch.no_grad():
            with _as_written(model), _counting_layers(model) as layers:
                functional_call(model, meta, (image,))
            with counter:
                functional_call(model, meta, (image,))
    finally:
        for module in was_training:
            module.training = True
    params = sum(p.numel() for p in model.parameters())
    return Cost(params=params, macs_paper=sum(layers), macs=counter.get_total_flops() // 2)


@contextmanager
def _as_written(model: nn.Module) -> Iterator[None]:
    """Mechanisms that can be evaluated in several forms take the textbook's."""
    forms = {m: m.form for m in model.modules() if isinstance(m, Mechanism)}
    try:
        for mechanism in forms:
            mechanism.form = "textbook"
        yield
    finally:
        for mechanism, form in forms.items():
            mechanism.form = form


@contextmanager
def _counting_layers(model: nn.Module) -> Iterator[list[int]]:
    """Collects the multiply-accumulates of each call of a convolution or linear layer."""
    macs: list[int] = []

    def add(module: nn.Module, inputs: tuple[Tensor, ...], output: Tensor) -> None:
        per_output = module.in_features if isinstance(module, nn.Linear) else math.prod(module.weight.shape[1:])
        macs.append(output.numel() * per_output)

    layers = [m for m in model.modules() if isinstance(m, nn.Linear | nn.Conv1d | nn.Conv2d | nn.Conv3d)]
    hooks = [layer.register_forward_hook(add) for layer in layers]
    try:
        yield macs
    finally:
        for hook in hooks:
            hook.remove()


def _dtype(model: nn.Module) -> torch.dtype:
    return next((p.dtype for p in model.parameters()), torch.float32)
