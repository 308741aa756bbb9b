"""NATTEN's kernels: where `neighborhood` uses them, and in which layout. cases.py has the reference of its own form."""

import sys
from types import SimpleNamespace

import pytest
import torch

from fvit.attention import get
from fvit.attention.zoo import neighborhood

from ..suite import randomise

GRID, WIDTH, HEADS = (6, 9), 16, 2


def neighbours(place, size, window, dilation):
    """The `window` members of a dilated row that are nearest to `place`, all on one side of the border."""
    row = list(range(place % dilation, size, dilation))
    start = min(max(row.index(place) - window // 2, 0), len(row) - window)
    return row[start : start + window]


def na2d(query, key, value, kernel_size, dilation):
    """What NATTEN documents, patch by patch: [B, rows, columns, H, d]."""
    out = torch.empty_like(query)
    for i in range(query.shape[1]):
        for j in range(query.shape[2]):
            rows, columns = (
                neighbours(place, size, kernel_size, dilation)
                for place, size in zip((i, j), query.shape[1:3], strict=True)
            )
            near_k, near_v = (t[:, rows][:, :, columns].flatten(1, 2) for t in (key, value))
            weights = torch.einsum("bhd,bnhd->bhn", query[:, i, j], near_k) / query.shape[-1] ** 0.5
            out[:, i, j] = torch.einsum("bhn,bnhd->bhd", weights.softmax(dim=-1), near_v)
    return out


@pytest.fixture
def natten(monkeypatch):
    """A module with NATTEN's interface, which the CPU may use, and the arguments of its calls."""
    calls = []

    def recorded(query, key, value, **options):
        calls.append((query.shape, options))
        return na2d(query, key, value, **options)

    module = SimpleNamespace(HAS_LIBNATTEN=True, na2d=recorded, calls=calls)
    monkeypatch.setitem(sys.modules, "natten", module)
    monkeypatch.setattr(neighborhood, "FUSED", ("cpu",))
    return module


def both(natten, prefix=0, width=WIDTH, dtype=torch.float32, **options):
    """The mechanism with and without kernels, equal otherwise, and tokens."""
    torch.manual_seed(0)
    made = []
    for has_kernels in (True, False):
        natten.HAS_LIBNATTEN = has_kernels
        made.append(get("neighborhood")(width, HEADS, dtype=dtype, **options))
        made[-1].set_layout(GRID, prefix)
    with_kernels, without = made
    randomise(with_kernels, std=0.5)
    without.load_state_dict(with_kernels.state_dict())
    return with_kernels, without, torch.randn(2, prefix + GRID[0] * GRID[1], width, dtype=dtype)


@pytest.mark.parametrize(("window", "dilation"), [(3, 1), (5, 1), (3, 2)])
@pytest.mark.parametrize("prefix", [0, 2])
def test_kernels_compute_the_same_on_the_grid(natten, window, dilation, prefix):
    fused, gathered, x = both(natten, prefix, window=window, dilation=dilation)
    expected = gathered(x)
    assert natten.calls == []
    torch.testing.assert_close(fused(x), expected)
    assert natten.calls == [((2, *GRID, HEADS, 8), {"kernel_size": window, "dilation": dilation})]


def test_gradients_pass_through_the_layout(natten):
    fused, gathered, x = both(natten, 1, window=3)
    for module in (fused, gathered):
        module(x).square().mean().backward()
    gradients = [[parameter.grad for parameter in module.parameters()] for module in (fused, gathered)]
    torch.testing.assert_close(*gradients)
    assert len(natten.calls) == 1


@pytest.mark.parametrize(
    "options",
    [
        {"window": 7},
        {"window": 5, "dilation": 2},
        {"window": 1},
        {"window": 3, "position_bias": True},
        {"window": 3, "width": 24},
        {"window": 3, "dtype": torch.float64},
    ],
    ids=str,
)
def test_what_kernels_lack_is_gathered(natten, options):
    fused, gathered, x = both(natten, **options)
    torch.testing.assert_close(fused(x), gathered(x))
    assert natten.calls == []


def test_masks_and_dropout_are_gathered(natten):
    fused, gathered, x = both(natten, window=3, attn_drop=0.5)
    mask = torch.rand(2, 1, 1, x.shape[1]) < 0.7
    fused.eval(), gathered.eval()
    torch.testing.assert_close(fused(x, attn_mask=mask), gathered(x, attn_mask=mask))
    fused.train()(x)
    assert natten.calls == []
    fused.eval()(x)
    assert len(natten.calls) == 1


def test_other_devices_are_gathered(natten, monkeypatch):
    monkeypatch.setattr(neighborhood, "FUSED", ("cuda",))
    fused, gathered, x = both(natten, window=3)
    assert torch.equal(fused(x), gathered(x))
    assert natten.calls == []


def test_runs_without_natten(monkeypatch):
    monkeypatch.setitem(sys.modules, "natten", None)
    monkeypatch.setattr(neighborhood, "FUSED", ("cpu",))
    module = get("neighborhood")(WIDTH, HEADS, window=3)
    module.set_layout(GRID, 0)
    assert module(torch.randn(1, 54, WIDTH)).isfinite().all()
