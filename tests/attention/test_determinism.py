"""No mechanism needs an operator of which CUDA has no deterministic kernel, in the forward or the backward pass."""

import torch
from torch.utils._python_dispatch import TorchDispatchMode

from .suite import build, every_path, tokens_of

# Those that torch.use_deterministic_algorithms documents to raise, as far as a mechanism could call them.
RAISING = {
    *("_adaptive_avg_pool2d_backward", "_adaptive_avg_pool3d_backward", "adaptive_max_pool2d_backward"),
    *("avg_pool3d_backward", "max_unpool2d", "upsample_linear1d_backward", "upsample_bilinear2d_backward"),
    *("upsample_bicubic2d_backward", "_upsample_bilinear2d_aa_backward", "_upsample_bicubic2d_aa_backward"),
    *("reflection_pad1d_backward", "reflection_pad2d_backward", "grid_sampler_2d_backward", "put", "put_"),
    *("histc", "median", "nll_loss_forward", "nll_loss2d_forward"),
}


class Operators(TorchDispatchMode):
    def __init__(self):
        super().__init__()
        self.names = set()

    def __torch_dispatch__(self, operator, types, args=(), kwargs=None):
        self.names.add(operator._schema.name.removeprefix("aten::"))
        return operator(*args, **(kwargs or {}))


@every_path
def test_no_operator_lacks_a_deterministic_kernel(case):
    module = build(case)
    x = tokens_of(module).requires_grad_()
    with Operators() as operators:
        module(x).square().sum().backward()
    assert any(name.endswith("backward") or name in ("mm", "mul") for name in operators.names)
    assert not operators.names & RAISING


def test_the_list_has_what_pooling_and_stretching_would_call():
    x = torch.randn(1, 2, 6, 6, requires_grad=True)
    with Operators() as operators:
        torch.nn.functional.adaptive_avg_pool2d(x, 4).sum().backward()
        torch.nn.functional.interpolate(x, size=(9, 9), mode="bilinear").sum().backward()
    assert {"_adaptive_avg_pool2d_backward", "upsample_bilinear2d_backward"} <= operators.names & RAISING
