"""Copies of an exchanged model, and what it tells its mechanisms of their tokens."""

import copy
import pickle

import pytest
import torch

from fvit.attention import Mechanism, SoftmaxAttention, names
from fvit.models import exchange
from fvit.models.hosts import sites

from .small import NeedsGrid, NoPrefix, being_built, finished, head_for, host_of, images, kinds, resampling, small_host

# Copies


@pytest.mark.parametrize("make", [being_built, finished])
def test_deep_copies_are_independent(make):
    model = make("additive").eval()
    before = model(images())
    twin = copy.deepcopy(model)
    assert torch.equal(twin(images()), before)
    twin.set_input_size((32, 64))
    assert twin.blocks[0].attn.grid_size == (4, 8)
    assert model.blocks[0].attn.grid_size == (4, 4)
    exchange(twin, "linear")
    assert kinds(model) == ["AdditiveAttention"] * 3
    with torch.no_grad():
        for parameter in twin.parameters():
            parameter.zero_()
    assert torch.equal(model(images()), before)


@pytest.mark.parametrize("make", [being_built, finished])
def test_models_can_be_pickled(make):
    model = make("additive").eval()
    twin = pickle.loads(pickle.dumps(model))
    assert torch.equal(twin(images()), model(images()))


# Layout


@pytest.mark.parametrize("make", [being_built, finished])
@pytest.mark.parametrize(
    ("options", "prefix"),
    [(dict(), 1), (dict(reg_tokens=4), 5), (dict(class_token=False, global_pool="avg"), 0)],
)
def test_mechanisms_are_told_grid_and_prefix_tokens(make, options, prefix):
    model = make(["additive", NeedsGrid, "softmax"] if prefix else NoPrefix, img_size=(32, 48), **options)
    assert [(b.attn.grid_size, b.attn.num_prefix_tokens) for b in model.blocks] == [((4, 6), prefix)] * 3


@pytest.mark.parametrize("make", [being_built, finished])
@pytest.mark.parametrize(
    ("resize", "grid"),
    [
        (dict(img_size=(48, 64)), (6, 8)),
        (dict(patch_size=(16, 16)), (2, 2)),
        (dict(img_size=(64, 32), patch_size=(16, 8)), (4, 4)),
    ],
)
def test_mechanisms_are_told_again_after_set_input_size(make, resize, grid):
    model = make(["additive", NeedsGrid, "softmax"])
    model.set_input_size(**resize)
    assert [(b.attn.grid_size, b.attn.num_prefix_tokens) for b in model.blocks] == [(grid, 1)] * 3


def test_mechanisms_are_told_where_only_some_blocks_are_exchanged():
    model = exchange(small_host(), NeedsGrid, blocks=[1])
    model.set_input_size((32, 64))
    assert model.blocks[1].attn.grid_size == (4, 8)


def test_the_layout_is_told_before_the_first_forward_and_once_a_change():
    calls = []

    class Listens(Mechanism):
        def set_layout(self, grid_size, num_prefix_tokens, block_index):
            calls.append((grid_size, num_prefix_tokens, block_index))
            super().set_layout(grid_size, num_prefix_tokens, block_index)

        def forward(self, x, attn_mask=None, is_causal=False):
            assert x.shape[1] == self.num_prefix_tokens + self.grid_size[0] * self.grid_size[1]
            return x

    model = exchange(small_host(), Listens, blocks=[1])
    model(images())
    model.set_input_size((16, 32))
    model(images(16, 32))
    assert calls == [((4, 4), 1, 1), ((2, 4), 1, 1)]


@pytest.mark.parametrize("make", [being_built, finished])
@pytest.mark.parametrize("attention", names())
def test_forward_after_set_input_size(make, attention):
    model = make(attention, **head_for(attention))
    model.set_input_size((32, 56))
    assert model(images(32, 56)).shape == (2, 5)


# Hosts of other kinds


FIXED = {"dinov2": dict(dynamic_img_size=False)}
"""What makes the grid of a host a fixed one, where it is not."""


class Positions(SoftmaxAttention):
    """Softmax attention that asks for a grid, as its place in any host allows."""

    needs_grid = True


@pytest.mark.parametrize(
    ("kind", "prefix"),
    [
        ("distilled", 2),
        ("dinov2", 5),
        ("beit", 1),
        ("eva02", 1),
        ("relpos", 0),
        ("relpos, class token", 1),
        ("cait", 0),
    ],
)
def test_every_kind_of_host_tells_grid_prefix_and_index(kind, prefix):
    model = exchange(host_of(kind, img_size=(32, 48), **FIXED.get(kind, {})), Positions)
    told = [(site.mechanism.grid_size, site.mechanism.num_prefix_tokens) for site in sites(model)]
    assert told == [((4, 6), prefix)] * 3
    assert [site.mechanism.block_index for site in sites(model)] == [0, 1, 2]


TELLING_AGAIN = ["distilled", "dinov2", "beit", "beit, shared bias", "eva02", "relpos", "relpos, shared"]


@resampling
@pytest.mark.parametrize(
    ("kind", "attention"),
    [*((kind, Positions) for kind in TELLING_AGAIN), ("beit", "pool"), ("eva02", "pool"), ("relpos, shared", "pool")],
)
def test_every_kind_of_host_tells_again_after_set_input_size(kind, attention):
    model = exchange(host_of(kind, **FIXED.get(kind, {})), attention)
    model.set_input_size((32, 56))
    assert {site.mechanism.grid_size for site in sites(model)} == {(4, 7)}
    assert model(images(32, 56)).shape == (2, 5)


@resampling
@pytest.mark.parametrize("kind", ["beit", "relpos", "relpos, table", "swin"])
def test_a_position_bias_is_resampled_as_the_host_does(kind):
    native, model = host_of(kind), exchange(host_of(kind), "softmax", keep=["qkv", "proj"])
    for host in (native, model):
        host.set_input_size((48, 64))
    torch.testing.assert_close(model(images(48, 64)), native(images(48, 64)), rtol=1e-6, atol=1e-6)


@resampling
def test_windows_are_the_grid_of_swin():
    model = exchange(host_of("swin"), "softmax")
    assert [(site.mechanism.grid_size, site.index) for site in sites(model)] == [((4, 4), index) for index in range(4)]
    model.set_input_size(img_size=(64, 32), window_size=(8, 4))
    assert [site.mechanism.grid_size for site in sites(model)] == [(8, 4)] * 4
    assert model(images(64, 32)).shape == (2, 5)
