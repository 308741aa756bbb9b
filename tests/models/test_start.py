"""Models that start from the weights of another one, with another attention or input size."""

import pytest
import torch
from timm.layers import resample_abs_pos_embed
from torch import nn

from fvit.models import build
from fvit.models.start import Source, load_weights
from fvit.models.transfer import parameters

from .small import KINDS, SMALL, host_of, kinds, resampling

SHAPE = {name: value for name, value in SMALL.items() if name not in ("img_size", "num_classes")}
NAME = "vit_tiny_patch16_224"


def trained(attention=None, blocks=None, img_size=(48, 32), **options):
    """A model with weights that no initialisation draws, and where they come from."""
    torch.manual_seed(1)
    model = build(NAME, img_size, 5, attention, blocks, **SHAPE, **options).eval()
    for parameter in model.parameters():
        nn.init.normal_(parameter, std=0.2)
    return model, dict(weights=model.state_dict(), source=Source(attention, blocks, img_size))


def started(img_size, attention, blocks=None, **options):
    return build(NAME, img_size, 5, attention, blocks, **{**SHAPE, **options}).eval()


def test_softmax_for_softmax_keeps_everything():
    model, weights = trained()
    new = started((48, 32), "softmax", **weights)
    images = torch.randn(2, 3, 48, 32)
    torch.testing.assert_close(new(images), model(images), rtol=1e-6, atol=1e-6)
    assert all(not report.initialised for report in new.exchange_report)


@pytest.mark.parametrize(
    ("attention", "kept"), [("linear", "q k v proj"), ("additive", "q k"), ("gated", "q k v proj"), ("gfnet", "")]
)
def test_projections_of_the_same_meaning_are_kept_unless_keep_says_otherwise(attention, kept):
    pooled = dict(class_token=False, global_pool="avg")
    model, weights = trained(**pooled)
    new = started((48, 32), attention, **weights, **pooled)
    assert {name.split(".")[0] for name in new.exchange_report[0].kept} == set(kept.split())
    old, found = (parameters(m.blocks[2].attn) for m in (model, new))
    assert all(torch.equal(found[name], old[name]) for name in new.exchange_report[2].kept)
    without = started((48, 32), attention, keep=[], **weights, **pooled)
    assert all(report.kept == () for report in without.exchange_report)


def test_random_weights_are_not_kept():
    """A seeded run from random weights stays what it was."""
    assert all(report.kept == () for report in build(NAME, 32, 5, "linear", **SHAPE).exchange_report)


@pytest.mark.parametrize("attention", ["linear", "aft_full", "synthesizer", None])
def test_an_attention_of_the_same_kind_is_kept_whole_in_other_blocks(attention):
    """Between models of which neither has the attention of timm everywhere."""
    model, weights = trained("aft_full", "0-1")
    new = started((48, 32), attention, None if attention is None else "1-2", **weights)
    expected = {None: ["Attention"] * 3}.get(attention, ["Attention", attention, attention])
    assert kinds(new) == expected
    same = {**dict.fromkeys(parameters(model.blocks[1].attn))} if attention == "aft_full" else {}
    found, old = parameters(new.blocks[1].attn), parameters(model.blocks[1].attn)
    assert all(torch.equal(found[name], old[name]) for name in same)
    assert bool(same) == (1 not in [report.block for report in new.exchange_report])
    assert torch.equal(new.blocks[0].attn.qkv.weight, model.blocks[0].attn.qkv.weight)  # back to the host's
    assert torch.equal(new.blocks[2].mlp.fc1.weight, model.blocks[2].mlp.fc1.weight)
    assert torch.equal(new.pos_embed, model.pos_embed)


def test_keep_of_which_nothing_can_be_transferred_is_refused():
    pooled = dict(class_token=False, global_pool="avg")
    _, weights = trained("linear", "0-1", **pooled)
    with pytest.raises(ValueError, match=r"keep=\['q'\]: none of these can be transferred"):
        started((48, 32), "identity", **weights, **pooled, keep=["q"])


@pytest.mark.parametrize("size", [64, (32, 64)])
def test_position_embedding_is_resampled_from_its_own_grid(size):
    model, weights = trained("linear")
    new = started(size, "linear", **weights)
    grid = (8, 8) if size == 64 else (4, 8)
    expected = resample_abs_pos_embed(model.pos_embed, grid, old_size=(6, 4), num_prefix_tokens=1)
    torch.testing.assert_close(new.pos_embed, expected)
    assert not new.weight_transfer.initialised
    assert not new.weight_transfer.unused
    assert new.patch_embed.grid_size == new.blocks[0].attn.grid_size == grid


@pytest.mark.parametrize("attention", ["aft_full", "synthesizer", "linformer", "gmlp"])
def test_weights_per_token_are_resampled(attention):
    model, weights = trained(attention)
    new = started((32, 64), attention, **weights)
    assert not new.weight_transfer.initialised
    # As timm does when the size of a model changes.
    model.set_input_size(img_size=(32, 64))
    images = torch.randn(2, 3, 32, 64)
    torch.testing.assert_close(new(images), model(images))
    # Of an unknown model the layout is saved with the weights.
    found = started(32, attention, weights=trained(attention, img_size=64)[0].state_dict())
    assert not found.weight_transfer.initialised


@resampling
@pytest.mark.parametrize("kind", ["vit", "distilled", "beit", "eva02", "relpos", "swin"])
@pytest.mark.parametrize("attention", [None, "softmax"])
def test_every_host_is_resampled(kind, attention):
    name, options = KINDS[kind]
    options = {key: value for key, value in options.items() if key not in ("img_size", "num_classes")}
    model = build(name, 32, 5, attention, **options).eval()
    weights = {key: torch.randn_like(w) if w.is_floating_point() else w for key, w in model.state_dict().items()}
    model.load_state_dict(weights)
    for source in (Source(attention, None, 32), None):
        new = build(name, 64, 5, attention, keep=None, weights=weights, source=source, **options).eval()
        assert not [n for n in new.weight_transfer.initialised if "rope" not in n]
        assert new(torch.randn(1, 3, 64, 64)).isfinite().all()


def test_loading_at_another_size_leaves_the_size_of_the_model():
    _, weights = trained("softmax")
    new = build(NAME, 64, 5, "softmax", **SHAPE)
    transfer = load_weights(new, weights["weights"], img_size=(48, 32))
    assert new.patch_embed.img_size == (64, 64)
    assert new(torch.randn(1, 3, 64, 64)).shape == (1, 5)
    assert not transfer.unused


def test_weights_that_timm_converts_are_converted():
    """DINOv2's own names and its mask token; DeiT III's LayerScale."""
    host = host_of("dinov2")
    theirs = {**host.state_dict(), "mask_token": torch.zeros(1, 24)}
    name, options = KINDS["dinov2"]
    new = build(name, **options, weights=theirs)
    assert not new.weight_transfer.initialised
    scaled = {key.replace(".ls1.gamma", ".gamma_1"): weight for key, weight in host_of("deit3").state_dict().items()}
    name, options = KINDS["deit3"]
    assert not build(name, **options, weights=scaled).weight_transfer.initialised
