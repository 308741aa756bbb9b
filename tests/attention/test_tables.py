"""What follows from the layout alone is made once for it, and is exact on every device and in every dtype."""

import copy

import pytest
import torch

from fvit.attention import get

from .suite import tokens_of

WITH_TABLES = [
    ("softmax", {"rotary": True}),
    ("mlla", {}),
    ("agent", {"num_agents": 9, "position_bias": True}),
    ("additive_plus", {"regions": 4}),
    ("fnet", {}),  # of 17 and of 19 tokens
]
every_one = pytest.mark.parametrize(("key", "options"), WITH_TABLES, ids=lambda part: part if part else None)


def build(key, options, dtype=torch.float64, grid=(4, 4), **factory):
    torch.manual_seed(0)
    module = get(key)(16, 2, dtype=dtype, **options, **factory)
    module.set_layout(grid, 1)
    return module


def tables(module):
    saved = module.state_dict().keys()
    return {name: t for name, t in module.named_buffers() if name not in saved and t.numel()}


@every_one
def test_tables_are_not_saved_and_follow_the_layout(key, options):
    module, expected = build(key, options), build(key, options, grid=(6, 3))
    assert tables(module).keys() == tables(expected).keys() != set()
    module.set_layout((6, 3), 1)
    for name, table in tables(module).items():
        assert torch.equal(table, tables(expected)[name]), name
    assert module(tokens_of(module)).isfinite().all()


@every_one
def test_tables_are_made_anew_by_a_conversion(key, options):
    """Not converted: float64 tables of a float32 module would be as wrong as float32."""
    exact = tables(build(key, options))
    for converted in (
        build(key, options, torch.float32).double(),
        build(key, options, torch.bfloat16).double(),
        build(key, options, device="meta").to_empty(device="cpu"),
        copy.deepcopy(build(key, options)),
    ):
        for name, table in tables(converted).items():
            assert torch.equal(table, exact[name]), name
    assert {t.dtype for t in tables(build(key, options, torch.float32).bfloat16()).values()} == {torch.float32}


@every_one
def test_a_layout_that_is_set_in_inference_mode_can_be_trained(key, options):
    module = build(key, options)
    with torch.inference_mode():
        module.set_layout((3, 5), 1)
        module(tokens_of(module))
    module(tokens_of(module).requires_grad_()).sum().backward()


@every_one
def test_tables_are_not_computed_in_forward(key, options):
    """Nor do they break the graph."""
    from torch.utils._python_dispatch import TorchDispatchMode

    class Made(TorchDispatchMode):
        names = ()

        def __torch_dispatch__(self, operator, types, args=(), kwargs=None):
            self.names += (operator._schema.name.removeprefix("aten::"),)
            return operator(*args, **(kwargs or {}))

    module = build(key, options)
    with Made() as made:
        module(tokens_of(module))
    assert not {"arange", "linspace", "cos", "sin", "eye"} & set(made.names)
    torch.compiler.reset()
    compiled = torch.compile(module, backend="eager", fullgraph=True)
    torch.testing.assert_close(compiled(tokens_of(module)), module(tokens_of(module)))
