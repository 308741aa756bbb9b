"""Every kind of host after an exchange: what it computes, what it loses, and that it still behaves as a model."""

import copy
import pickle

import pytest
import torch
from torch import nn

from fvit.attention import get, names
from fvit.models import exchange
from fvit.models.adapters import Adapter, WindowAdapter
from fvit.models.hosts import ignore_rope, shared_positions, sites

from .small import KINDS, class_name, each_way, every_kind, host_of, images, kinds

BIASED = ["beit", "beitv2", "relpos", "relpos, class token", "relpos, table", "relpos, post-norm"]
PAIRS = [name for name in names() if get(name).takes_pair_mask]


def fitting(kind):
    """A mechanism that the kind of host can take, if possible unlike softmax attention."""
    return {"swin": "relu", "naflex, rope": "relu", "vit5": "softmax"}.get(kind, "linear")


@every_kind
def test_softmax_with_transferred_weights_computes_the_same(kind):
    """Apart from CaiT's talking heads, which softmax attention lacks."""
    model = host_of(kind)
    if kind == "cait":
        for block in model.blocks:
            for talking in (block.attn.proj_l, block.attn.proj_w):
                nn.init.eye_(talking.weight)
                nn.init.zeros_(talking.bias)
    expected = model(images())
    exchange(model, "softmax")
    assert expected.std() > 0.05
    torch.testing.assert_close(model(images()), expected, rtol=1e-6, atol=1e-6)
    assert all(not report.initialised for report in model.exchange_report)
    assert all("rope" not in report.dropped for report in model.exchange_report)


ROTARY = ["eva02", "dinov3", "vit5, no qk-norm", "eva, mixed rope", "naflex, rope"]


@pytest.mark.parametrize("kind", ROTARY)
@pytest.mark.parametrize("attention", ["relu", {"name": "softmax", "talking_heads": True}])
def test_rotary_positions_are_lost_and_reported_where_queries_cannot_be_turned(kind, attention):
    model = exchange(host_of(kind), attention)
    assert model.rope is None
    assert all("rope" in report.dropped for report in model.exchange_report)


@pytest.mark.parametrize("kind", ROTARY)
def test_softmax_may_ignore_rotary_positions(kind):
    """As in checkpoints of earlier versions, whose weights were trained without."""
    model = host_of(kind)
    unturned = copy.deepcopy(model)
    unturned.rope = None
    expected = unturned(images())
    assert not torch.allclose(expected, model(images()), atol=1e-3)
    exchange(model, "softmax")
    ignore_rope(model)
    torch.testing.assert_close(model(images()), expected, rtol=1e-6, atol=1e-6)
    assert model.rope is None


@pytest.mark.parametrize("kind", BIASED)
def test_position_bias_is_transferred_where_it_can_be_added(kind):
    model = host_of(kind)
    native = {name.removeprefix("rel_pos.") for name, _ in model.blocks[0].attn.named_parameters() if "rel" in name}
    exchange(model, ["softmax", "linear", {"name": "softmax", "num_heads": 2}])
    for report, kept in zip(model.exchange_report, (True, False, False), strict=True):
        tables = {name.removeprefix("rel_pos.") for name in report.kept if name.startswith("rel_pos.")}
        lost = {name.removeprefix("rel_pos.") for name in report.dropped if name.startswith("rel_pos.")}
        assert (tables, lost) == ((native, set()) if kept else (set(), native))
    assert [block.attn.rel_pos is not None for block in model.blocks] == [True, False, False]


@pytest.mark.parametrize(
    "kind", [kind for kind in KINDS if kind.endswith(("shared", "shared bias", "rope")) or "02" in kind]
)
def test_shared_positions_stay_while_a_block_uses_them(kind):
    model = host_of(kind)
    [name] = shared_positions(model)
    exchange(model, "relu" if name == "rope" else "identity", blocks="0-1")
    assert shared_positions(model) == [name]
    assert all(name in report.dropped for report in model.exchange_report)
    exchange(model, "relu" if name == "rope" else "identity", blocks=2)
    assert shared_positions(model) == []
    assert model.exchange_report[2].dropped[-1] == name
    exchange(model, "softmax")
    assert all(name not in report.dropped for report in model.exchange_report)
    assert model(images()).shape == (2, 5)


@pytest.mark.parametrize("kind", ["beit, shared bias", "relpos, shared"])
def test_shared_bias_is_used_by_mechanisms_that_can_add_it(kind):
    model = exchange(host_of(kind), ["softmax", "linear", "relu"])
    assert len(shared_positions(model)) == 1
    before = model(images())
    with torch.no_grad():
        for parameter in getattr(model, shared_positions(model)[0]).parameters():
            parameter.mul_(-1)
    assert not torch.allclose(model(images()), before)


@every_kind
def test_all_parameters_receive_gradients_with_and_without_checkpointing(kind):
    gradients = []
    for checkpointing in (False, True):
        torch.manual_seed(0)
        model = exchange(host_of(kind, std=0), [fitting(kind), "softmax"], blocks=[0, 1]).train()
        model.set_grad_checkpointing(checkpointing)
        torch.manual_seed(0)
        model(images()).square().sum().backward()
        gradients.append({name: p.grad for name, p in model.named_parameters()})
        assert all(gradient is not None and gradient.isfinite().all() for gradient in gradients[-1].values())
    torch.testing.assert_close(*gradients)


@each_way
def test_state_dict_of_one_exchanged_model_loads_into_another(kind):
    one, other = (exchange(host_of(kind, std), ["softmax", fitting(kind)], blocks=[0, 1]) for std in (0.5, 0.4))
    other.load_state_dict(one.state_dict(), strict=True)
    assert torch.equal(other(images()), one(images()))


@each_way
def test_copies_and_pickles_are_equal_and_independent(kind):
    model = exchange(host_of(kind), fitting(kind), keep=["q"])
    before = model(images())
    for clone in (copy.deepcopy, lambda model: pickle.loads(pickle.dumps(model))):
        twin = clone(model)
        assert torch.equal(twin(images()), before)
        assert twin.exchange_report == model.exchange_report
        with torch.no_grad():
            for parameter in twin.parameters():
                parameter.zero_()
        assert torch.equal(model(images()), before)


@each_way
def test_other_blocks_are_unchanged(kind):
    model = host_of(kind)
    others = [site.block.attn for site in sites(model) if site.index != 1]
    before = {name: t.clone() for name, t in model.state_dict().items() if not name.startswith(prefix_of(model, 1))}
    exchange(model, "softmax", blocks=[1], keep=["q"])
    assert [site.block.attn for site in sites(model) if site.index != 1] == others
    after = model.state_dict()
    assert all(torch.equal(after[name], tensor) for name, tensor in before.items())
    assert [report.block for report in model.exchange_report] == [1]


def prefix_of(model, index):
    """The prefix of one attention's parameter names."""
    block = sites(model)[index].block
    return next(f"{name}.attn." for name, module in model.named_modules() if module is block)


@each_way
def test_an_error_leaves_the_model_unchanged(kind):
    model = host_of(kind)
    weights, before, cls = dict(model.named_parameters()), model(images()), type(model)
    depth = len(sites(model))
    for attention, keep in (
        (["softmax"] * (depth - 1) + [{"name": "softmax", "num_heads": 5}], ["qkv"]),
        ("identity" if kind == "swin" else "relu", ["qvk"]),
    ):
        with pytest.raises(ValueError, match=r"heads|qvk"):
            exchange(model, attention, keep=keep)
    assert type(model) is cls
    assert all(parameter is weights[name] for name, parameter in model.named_parameters())
    assert torch.equal(model(images()), before)


@each_way
def test_second_exchange_replaces_the_mechanism_inside_the_adapter(kind):
    model = exchange(host_of(kind), "softmax", keep=["qkv", "proj"])
    before = model(images())
    adapters = [type(site.block.attn) for site in sites(model) if isinstance(site.block.attn, Adapter)]
    exchange(model, "softmax", keep=["qkv", "proj"])
    assert torch.equal(model(images()), before)
    assert [type(site.block.attn) for site in sites(model) if isinstance(site.block.attn, Adapter)] == adapters
    assert {(report.old, report.new) for report in model.exchange_report} == {(class_name("softmax"),) * 2}
    assert set(kinds(exchange(model, fitting(kind)))) == {fitting(kind)}


@pytest.mark.parametrize("bias", [True, False])
@pytest.mark.parametrize("attention", PAIRS)
def test_masks_of_shifted_windows_hide_pairs(attention, bias):
    """Swin's −100 is not low enough for every mechanism; here two halves of a window must not attend to each other."""
    model = exchange(host_of("swin"), attention)
    adapter = model.layers[0].blocks[1].attn
    assert isinstance(adapter, WindowAdapter)
    if not bias:
        adapter.rel_pos = None
    half = torch.arange(16) < 8
    mask = torch.where(half[:, None] == half, 0.0, -100.0).expand(4, -1, -1)
    x = torch.randn(8, 16, 12, generator=torch.Generator().manual_seed(0))
    changed = torch.where(half[:, None], x, 30 * x)
    torch.testing.assert_close(adapter(changed, mask=mask)[:, half], adapter(x, mask=mask)[:, half])
    if attention == "relu":
        # The mean is over the 8 visible keys, not over 16.
        weights = adapter.mechanism.state_dict()
        alone = get("relu")(12, 2)
        alone.load_state_dict(weights)
        expected = alone(x[:, half]) if not bias else alone(x[:, half], attn_mask=adapter.position_bias()[:, :, :8, :8])
        torch.testing.assert_close(adapter(x, mask=mask)[:, half], expected)


def test_each_image_gets_its_own_window_mask():
    model = exchange(host_of("swin"), "sigmoid")
    one, other = images(batch=2).split(1)
    torch.testing.assert_close(model(torch.cat([one, other])), torch.cat([model(one), model(other)]))


NAFLEX = [name for name in names() if not (get(name).needs_grid or get(name).fixed_length or name == "fnet")]


@pytest.mark.parametrize("attention", NAFLEX)
def test_padded_patches_of_naflex_have_no_effect(attention):
    """Three images of other aspect ratios in one padded batch, and each of them alone."""
    model = exchange(host_of("naflex", std=0.3), attention).double().eval()
    grids, generator = [(3, 4), (2, 5), (1, 2)], torch.Generator().manual_seed(0)
    patches = [torch.randn(rows * columns, 192, generator=generator, dtype=torch.float64) for rows, columns in grids]
    places = [torch.cartesian_prod(torch.arange(rows), torch.arange(columns)) for rows, columns in grids]

    def batch(images, padding):
        return {
            "patches": torch.stack(
                [nn.functional.pad(patches[i], (0, 0, 0, padding - len(patches[i])), value=9.0) for i in images]
            ),
            "patch_coord": torch.stack(
                [nn.functional.pad(places[i], (0, 0, 0, padding - len(places[i]))) for i in images]
            ),
            "patch_valid": torch.stack([torch.arange(padding) < len(patches[i]) for i in images]),
        }

    with torch.no_grad():
        alone = torch.cat([model(batch([i], len(patches[i]))) for i in range(3)])
        together = batch(range(3), 16)
        torch.testing.assert_close(model(together), alone, rtol=0, atol=1e-9 * alone.std().item())
        unmasked = model({**together, "patch_valid": torch.ones(3, 16, dtype=torch.bool)})
    assert (unmasked - alone).abs().max() > 0.01 * alone.std()


def test_mechanism_that_can_hide_no_patch_refuses_those_of_naflex():
    model = exchange(host_of("naflex"), "fnet")
    patches, places = torch.randn(1, 4, 192), torch.zeros(1, 4, 2, dtype=torch.int64)
    with pytest.raises(ValueError, match="FNet transforms all tokens together and cannot hide one"):
        model(patches, patch_coord=places, patch_valid=torch.tensor([[True, True, True, False]]))
