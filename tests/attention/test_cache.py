import copy
import pickle

import pytest
import torch
from torch import nn

from fvit.attention import Additive
from fvit.attention.cache import WeightCache, _equal_at_once, _same

from .suite import randomise


def folded(**options):
    torch.manual_seed(0)
    module = Additive(24, 4, dtype=torch.float64, proj=True, form="folded", **options)
    return randomise(module, std=0.3).eval()


def tokens():
    return torch.randn(2, 30, 24, generator=torch.Generator().manual_seed(1), dtype=torch.float64)


def assert_fresh(module, x=None):
    """What it gives is what the textbook form of the same weights gives, which keeps nothing."""
    x = tokens() if x is None else x
    textbook = Additive(24, 4, dtype=x.dtype, proj=True, qkv_bias=module.q.bias is not None, form="textbook").eval()
    textbook.load_state_dict(module.state_dict())
    with torch.no_grad():
        tolerance = 1e-10 if x.dtype == torch.float64 else 1e-4
        torch.testing.assert_close(module(x), textbook(x), rtol=tolerance, atol=tolerance)


def step(module):
    """One step of an optimizer."""
    optimizer = torch.optim.SGD(module.parameters(), lr=0.1)
    module(tokens()).square().mean().backward()
    optimizer.step()


def swap_in_average(module):
    """As callbacks of weight averaging do it, past every version counter."""
    for parameter in module.parameters():
        parameter.data.copy_(torch.full_like(parameter, 0.05) + parameter.data)


def load(module):
    module.load_state_dict({name: t + 0.1 for name, t in module.state_dict().items()})


def assign(module):
    module.load_state_dict({name: t + 0.1 for name, t in module.state_dict().items()}, assign=True)


def replace(module):
    module.proj.weight = nn.Parameter(module.proj.weight.detach() * 2)


def one_element(module):
    with torch.no_grad():
        module.q.bias[3] += 1


@pytest.mark.parametrize(
    "change", [step, swap_in_average, load, assign, replace, one_element], ids=lambda f: f.__name__
)
def test_changed_weights_are_noticed(change):
    module = folded()
    assert_fresh(module)
    change(module)
    assert_fresh(module)
    assert_fresh(module)


def test_a_change_of_dtype_is_noticed_also_where_it_is_undone():
    module = folded()
    assert_fresh(module)
    assert_fresh(module.float(), tokens().float())
    # Back in float64 the weights are rounded ones.
    assert_fresh(module.double())


def test_autocast_is_noticed():
    module = folded().float()
    x = tokens().float()
    with torch.no_grad():
        plain = module(x)
        with torch.autocast("cpu", dtype=torch.bfloat16):
            short = module(x)
        assert short.dtype == torch.bfloat16
        assert torch.equal(module(x), plain)


def test_weights_are_multiplied_once_in_inference_and_each_time_in_training():
    calls = []
    module = folded()
    module.proj.register_forward_hook(lambda *_: calls.append(1))  # the offset goes through it
    for _ in range(3):
        with torch.no_grad():
            module(tokens())
    assert len(calls) == 1
    for _ in range(3):
        module(tokens())
    assert len(calls) == 4


@pytest.mark.parametrize("copied", [copy.deepcopy, lambda m: pickle.loads(pickle.dumps(m))], ids=["deepcopy", "pickle"])
def test_a_copy_keeps_nothing_of_the_original(copied):
    module = folded()
    assert_fresh(module)
    twin = copied(module)
    assert twin._cache._kept is None
    swap_in_average(twin)
    assert_fresh(twin)
    assert_fresh(module)


def test_a_move_is_noticed():
    assert _same([torch.ones(2)], [torch.ones(2)])
    assert not _same([torch.ones(2)], [torch.ones(2, device="meta")])
    assert not _same([torch.ones(2)], [torch.ones(2, 1)])


@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a GPU")
def test_a_module_that_was_moved_gives_what_it_gave():
    module = folded()
    with torch.no_grad():
        expected = module(tokens())
        for device in ("cuda", "cuda", "cpu"):
            torch.testing.assert_close(module.to(device)(tokens().to(device)).cpu(), expected)


@pytest.mark.parametrize(
    ("change", "equal"),
    [(lambda w: w, True), (lambda w: w + (w == 3), False), (lambda w: w + torch.nan, False)],
    ids=["none", "one element", "nan"],
)
def test_weights_are_compared_at_once_as_they_are_one_by_one(change, equal):
    """The former is how weights on a GPU are, which the tests need not have."""
    kept = [torch.arange(6.0).view(2, 3), torch.arange(4)]
    weights = [change(kept[0].clone()), kept[1].clone()]
    assert _equal_at_once(list(zip(kept, weights, strict=True))) is _same(kept, weights) is equal


def test_a_graph_that_is_captured_multiplies_its_weights(monkeypatch):
    """Or it would go on with those of the time when it was."""
    cache, weight = WeightCache(), torch.ones(2)
    monkeypatch.setattr(torch, "equal", lambda *_: pytest.fail("a capture cannot wait for an answer"))
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    with torch.no_grad():
        for capturing, expected in ((False, "before"), (True, "captured"), (True, "again"), (False, "after")):
            monkeypatch.setattr(torch.cuda, "is_current_stream_capturing", lambda answer=capturing: answer)
            assert cache.get(lambda made=expected: made, weight) == expected


@pytest.mark.filterwarnings("ignore:.*torch.jit.trace.* is deprecated", "ignore::torch.jit.TracerWarning")
def test_a_trace_multiplies_its_weights():
    module = folded()
    with torch.no_grad():
        module(tokens())
        traced = torch.jit.trace(module, (tokens(),))
        load(module)
        torch.testing.assert_close(traced(tokens()), module(tokens()))


def test_what_was_made_for_other_weights_is_not_returned():
    cache, weight = WeightCache(), torch.ones(2, 2)
    with torch.no_grad():
        assert cache.get(lambda: "first", weight, None) == "first"
        assert cache.get(lambda: "second", weight, None) == "first"
        assert cache.get(lambda: "second", weight, weight) == "second"
        assert cache.get(lambda: "third", weight.double(), weight) == "third"
    assert cache.get(lambda: "fourth", weight, None) == "fourth"
