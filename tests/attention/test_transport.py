"""A mechanism survives being saved, copied, moved, built without memory, exported and compiled."""

import copy
import pickle

import pytest
import torch

from fvit.attention import get

from .cases import CASES
from .suite import HEADS, WIDTH, build, every_case, prefix_of, tokens_of

# Of each kind one: generated code is torch's to test, and takes half a minute a case.
COMPILED = ("additive", "softmax", "linear", "performer")


def build_on_meta(case):
    module = get(case.key)(WIDTH, HEADS, device="meta", dtype=torch.float64, **case.options)
    module.set_layout(case.grids[0], prefix_of(case), case.block_index)
    return module


@every_case
def test_state_dict_round_trip(case):
    one, other = build(case, seed=0), build(case, seed=1)
    x = tokens_of(one)
    if one.state_dict():
        assert not torch.equal(one(x), other(x))
    for tensor in other.state_dict().values():
        tensor.zero_()  # buffers too, which a seed may have made equal
    other.load_state_dict(one.state_dict(), strict=True)
    assert torch.equal(one(x), other(x))


@every_case
def test_meta_device_gives_meta_parameters(case):
    module = build_on_meta(case)
    assert {t.device.type for t in [*module.parameters(), *module.buffers()]} <= {"meta"}
    x = tokens_of(module).to("meta")
    assert module(x).shape == x.shape


@every_case
def test_state_loads_into_a_module_built_on_meta(case):
    module, empty = build(case), build_on_meta(case)
    x = tokens_of(module)
    empty.to_empty(device="cpu")
    empty.load_state_dict(module.state_dict(), strict=True)
    assert torch.equal(empty(x), module(x))


@every_case
@pytest.mark.parametrize("dtype", [torch.float64, torch.bfloat16], ids=["float64", "bfloat16"])
def test_dtype_is_honoured(case, dtype):
    module = build(case, dtype=dtype)
    assert {t.dtype for t in module.state_dict().values() if t.is_floating_point()} <= {dtype}
    assert module(tokens_of(module).to(dtype)).dtype == dtype


@pytest.mark.parametrize(
    "copied", [copy.deepcopy, lambda module: pickle.loads(pickle.dumps(module))], ids=["deepcopy", "pickle"]
)
@every_case
def test_a_copy_does_the_same_and_shares_nothing(case, copied):
    module = build(case)
    twin = copied(module)
    x = tokens_of(module)
    expected = module(x)
    assert torch.equal(twin(x), expected)
    with torch.no_grad():
        for parameter in twin.parameters():
            parameter.add_(1)
    assert torch.equal(module(x), expected)


@pytest.mark.slow
@every_case
def test_export_agrees_with_eager(case):
    module = build(case, dtype=torch.float32).eval()
    x = tokens_of(module).float()
    exported = torch.export.export(module, (x,)).module()
    torch.testing.assert_close(exported(x), module(x))


@pytest.mark.slow
@every_case
def test_the_compiler_captures_it_whole(case):
    """As one graph; run without generated code, which takes half a minute a case."""
    assert_compiled_agrees(case, "eager")


@pytest.fixture(scope="module")
def own_compile_cache(tmp_path_factory):
    """Kernels are compiled here and now, and none is read that another process left half written."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("TORCHINDUCTOR_CACHE_DIR", str(tmp_path_factory.mktemp("inductor")))
        yield


@pytest.mark.slow
@pytest.mark.usefixtures("own_compile_cache")
@pytest.mark.parametrize(
    "case", [case for case in CASES if case.key in COMPILED and not case.options], ids=lambda c: c.id
)
def test_compiled_code_agrees_with_eager(case):
    assert_compiled_agrees(case, "inductor")


def assert_compiled_agrees(case, backend):
    torch.compiler.reset()
    module = build(case, dtype=torch.float32, std=0.25)
    x = tokens_of(module).float()
    results = []
    for function in (module, torch.compile(module, backend=backend, fullgraph=True)):
        module.zero_grad()
        leaf = x.clone().requires_grad_()
        out = function(leaf)
        (out * x).sum().backward()
        results.append([out.detach(), leaf.grad, *(p.grad.clone() for p in module.parameters())])
    torch.testing.assert_close(*results, rtol=1e-4, atol=1e-5)
