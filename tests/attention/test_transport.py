"""A mechanism survives saving, copying, building on the meta device, exporting and compiling."""

import copy
import json
import pickle
from pathlib import Path

import pytest
import torch

from fvit.attention import get

from .cases import DEFAULTS, FULL, PATHS
from .suite import HEADS, WIDTH, build, every_full, full_first, over, prefix_of, tokens_of


def build_on_meta(case):
    module = get(case.key)(WIDTH, HEADS, device="meta", dtype=torch.float64, **case.options)
    module.set_layout(case.grids[0], prefix_of(case), case.block_index)
    return module


@every_full
def test_state_loads_into_another_module_and_one_built_on_meta(case):
    module, other, empty = build(case, seed=0), build(case, seed=1), build_on_meta(case)
    x = tokens_of(module)
    if module.state_dict():
        assert not torch.equal(module(x), other(x))
    for tensor in other.state_dict().values():
        tensor.zero_()  # including buffers, which a seed may have made equal
    other.load_state_dict(module.state_dict(), strict=True)
    assert torch.equal(other(x), module(x))

    assert {t.device.type for t in [*empty.parameters(), *empty.buffers()]} <= {"meta"}
    assert empty(x.to("meta")).shape == x.shape
    empty.to_empty(device="cpu")
    empty.load_state_dict(module.state_dict(), strict=True)
    assert torch.equal(empty(x), module(x))


def test_state_dict_keys_and_their_order_are_those_of_version_0_1():
    """Checkpoints hold the weights by name and the optimizer's state by position."""
    keys = json.loads(Path(__file__).with_name("state_dict_keys.json").read_text())
    assert keys.keys() <= {case.id for case in FULL}
    for case in FULL:
        if case.id in keys:
            assert list(build(case).state_dict()) == keys[case.id].split(), case.id


@every_full
def test_a_copy_gives_the_same_and_shares_nothing(case):
    module = build(case)
    x = tokens_of(module)
    expected = module(x)
    for twin in (copy.deepcopy(module), pickle.loads(pickle.dumps(module))):
        assert torch.equal(twin(x), expected)
        with torch.no_grad():
            for parameter in twin.parameters():
                parameter.add_(1)
        assert torch.equal(module(x), expected)


@every_full
def test_dtype_is_honoured(case):
    for dtype in (torch.float64, torch.bfloat16):
        module = build(case, dtype=dtype)
        assert {t.dtype for t in module.state_dict().values() if t.is_floating_point()} <= {dtype}
        assert module(tokens_of(module).to(dtype)).dtype == dtype


@pytest.mark.slow
@pytest.mark.exhaustive
@over(PATHS)
def test_export_agrees_with_eager(case):
    """CI exports one mechanism of each kind, in tests/models/export."""
    module = build(case, dtype=torch.float32).eval()
    x = tokens_of(module).float()
    exported = torch.export.export(module, (x,)).module()
    torch.testing.assert_close(exported(x), module(x))


@pytest.mark.slow
@full_first(pytest.mark.exhaustive)
def test_the_compiler_captures_it_as_one_graph(case):
    assert_compiled_agrees(case, "eager")


@pytest.fixture(scope="module")
def own_compile_cache(tmp_path_factory):
    """No kernel is read from a cache that another process may be writing."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("TORCHINDUCTOR_CACHE_DIR", str(tmp_path_factory.mktemp("inductor")))
        yield


@pytest.mark.slow
@pytest.mark.usefixtures("own_compile_cache")
@pytest.mark.parametrize(
    "key",
    ["softmax", *(pytest.param(key, marks=pytest.mark.exhaustive) for key in ("performer", "additive", "linear"))],
)
def test_compiled_code_agrees_with_eager(key):
    """One of each kind, for compiling takes half a minute; test_forms.py compiles additive attention in CI."""
    [case] = [case for case in DEFAULTS if case.key == key]
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
