import copy
import pickle

import pytest
import torch
from timm.models.vision_transformer import VisionTransformer

from fvit.attention import Mechanism, get, names
from fvit.cost import count
from fvit.models import build, exchange
from fvit.models.layout import TellsLayout
from fvit.models.trim import TrimmedBlock, Trims, trim, untrimmed, why_not

SMALL = dict(patch_size=8, embed_dim=24, depth=3, num_heads=3, drop_path_rate=0.0)


def twins(attention="additive", name="vit_tiny_patch16_224", **options):
    """A model whose last block is computed whole, and the same trimmed."""
    torch.manual_seed(0)
    whole = build(name, 32, 5, attention, trim_last=False, dtype=torch.float64, **{**SMALL, **options})
    trimmed = build(name, 32, 5, attention, trim_last=True, dtype=torch.float64, **{**SMALL, **options})
    trimmed.load_state_dict(whole.state_dict(), strict=True)
    return whole, trimmed


def images(batch=2):
    return torch.randn(batch, 3, 32, 32, generator=torch.Generator().manual_seed(1), dtype=torch.float64)


def logits_and_gradients(model, **forward):
    model.zero_grad()
    logits = model(images(), **forward)
    (logits * torch.linspace(-1, 1, logits.numel()).view(logits.shape)).sum().backward()
    # What no longer takes part has no gradient where it had one of 0.
    gradients = {n: torch.zeros_like(p) if p.grad is None else p.grad for n, p in model.named_parameters()}
    return {"logits": logits.detach(), **gradients}


def assert_same(ours, theirs):
    for name, expected in theirs.items():
        torch.testing.assert_close(ours[name], expected, rtol=1e-10, atol=1e-12, msg=lambda m, n=name: f"{n}: {m}")


@pytest.mark.parametrize("attention", [name for name in names() if get(name).reaches_prefix and get(name).takes_prefix])
def test_logits_and_gradients_are_the_same_for_every_mechanism(attention):
    whole, trimmed = twins(attention)
    assert_same(logits_and_gradients(trimmed), logits_and_gradients(whole))
    assert_same(logits_and_gradients(trimmed.eval()), logits_and_gradients(whole.eval()))


@pytest.mark.parametrize("options", [dict(init_values=0.1), dict(reg_tokens=3), dict(qkv_bias=False)], ids=str)
@pytest.mark.parametrize("attention", ["additive", "softmax"])
def test_with_layer_scale_and_registers(attention, options):
    whole, trimmed = twins(attention, **options)
    assert_same(logits_and_gradients(trimmed), logits_and_gradients(whole))


@pytest.mark.parametrize("attention", ["additive", "softmax"])
def test_masks_reach_the_last_block(attention):
    whole, trimmed = twins(attention)
    keep = torch.ones(2, 1, 1, 17, dtype=torch.bool)
    keep[..., 9:] = False
    assert_same(logits_and_gradients(trimmed, attn_mask=keep), logits_and_gradients(whole, attn_mask=keep))


def test_under_gradient_checkpointing():
    whole, trimmed = twins()
    trimmed.set_grad_checkpointing(True)
    assert_same(logits_and_gradients(trimmed.train()), logits_and_gradients(whole.train()))


def test_stochastic_depth_draws_as_before():
    whole, trimmed = (model.train() for model in twins(drop_path_rate=0.5))
    results = []
    for model in (trimmed, whole):
        torch.manual_seed(3)
        results.append(logits_and_gradients(model))
    assert_same(*results)


def test_less_is_computed_and_papers_count_the_same():
    whole, trimmed = (count(model, 32) for model in twins("softmax"))
    assert (trimmed.params, trimmed.macs_paper) == (whole.params, whole.macs_paper)
    assert trimmed.macs < 0.8 * whole.macs


def test_the_last_block_is_called_as_a_module_with_one_token_to_give():
    shapes = []
    _, trimmed = twins()
    trimmed.blocks[-1].register_forward_hook(lambda module, args, out: shapes.append(out.shape))
    trimmed(images())
    assert shapes == [(2, 1, 24)]


def test_features_stay_whole():
    whole, trimmed = (model.eval() for model in twins())
    torch.testing.assert_close(trimmed.forward_features(images()), whole.forward_features(images()))
    ours, theirs = (model.forward_intermediates(images(), intermediates_only=True) for model in (trimmed, whole))
    assert len(ours) == 3
    torch.testing.assert_close(ours, theirs)


def test_another_pooling_takes_all_tokens_again():
    whole, trimmed = (model.eval() for model in twins())
    for model in (whole, trimmed):
        torch.manual_seed(1)
        model.reset_classifier(5, "avg")
        model.double()
    torch.testing.assert_close(trimmed(images()), whole(images()))


@pytest.mark.parametrize("copied", [copy.deepcopy, lambda m: pickle.loads(pickle.dumps(m))], ids=["deepcopy", "pickle"])
def test_a_copy_is_trimmed_too(copied):
    _, trimmed = twins()
    twin = copied(trimmed)
    assert type(twin.blocks[-1]) is TrimmedBlock
    assert twin.trims_last
    assert torch.equal(twin(images()), trimmed(images()))


def test_exported_and_trimmed():
    _, trimmed = (model.eval() for model in twins())
    exported = torch.export.export(trimmed, (images(),)).module()
    torch.testing.assert_close(exported(images()), trimmed(images()))


@pytest.mark.parametrize(
    ("name", "attention", "options", "reason"),
    [
        ("vit_tiny_patch16_224", "additive", dict(global_pool="avg"), r"more than the class token \(global_pool=avg\)"),
        ("vit_tiny_patch16_224", None, {}, "timm's own; take attention=softmax"),
        ("deit_tiny_distilled_patch16_224", "additive", {}, "Distilled has a head or a forward pass of its own"),
        ("convnext_atto", None, None, "ConvNeXt is no VisionTransformer"),
        ("fvit_tiny_patch16_224", None, dict(features_only=True), "FeatureGetterNet is no VisionTransformer"),
    ],
)
def test_where_it_is_not_exact_it_is_not_done_and_refused_if_asked_for(name, attention, options, reason):
    options = {} if options is None else {**SMALL, **options}
    model = build(name, 32, 5, attention, **options)
    assert why_not(model) is not None
    assert not getattr(model, "trims_last", False)
    with pytest.raises(ValueError, match=f"trim_last has no effect here: .*({reason})"):
        build(name, 32, 5, attention, trim_last=True, **options)


class Doubles(VisionTransformer):
    """A host with a forward pass of its own, which `trim` does not know."""

    def forward(self, x, attn_mask=None):
        return 2 * super().forward(x, attn_mask=attn_mask)


class DoublesOurs(TellsLayout, VisionTransformer):
    """The same, made of a host of ours."""

    def forward(self, x, attn_mask=None):
        return 2 * super().forward(x, attn_mask=attn_mask)


@pytest.mark.parametrize("kind", [Doubles, DoublesOurs])
def test_a_forward_pass_of_its_own_is_kept(kind):
    model = kind(img_size=32, num_classes=5, **SMALL).eval()
    logits = 2 * VisionTransformer.forward(model, images().float())
    exchange(model, "softmax", keep=["qkv", "proj"])
    assert type(model).__mro__.count(Trims) == 1
    with pytest.raises(ValueError, match="has a head or a forward pass of its own"):
        trim(model)
    torch.testing.assert_close(model(images().float()), logits)


def test_it_is_done_by_default_where_it_is_exact():
    assert build("vit_tiny_patch16_224", 32, 5, "softmax", **SMALL).trims_last
    assert not build("vit_tiny_patch16_224", 32, 5, "softmax", trim_last=False, **SMALL).trims_last


def test_every_mechanism_can_give_its_first_tokens():
    for name in names():
        assert get(name).first in (Mechanism.first, get(name).__dict__.get("first"))


def test_trimming_twice_is_trimming_once():
    _, trimmed = twins()
    before = trimmed(images())
    trim(trimmed)
    assert torch.equal(trimmed(images()), before)


def test_a_trimmed_model_can_be_whole_for_a_while():
    model = build("vit_tiny_patch16_224", 32, 5, "softmax", **SMALL)
    seen = []
    model.norm.register_forward_hook(lambda module, args, output: seen.append(output.shape[1]))
    image = torch.zeros(1, 3, 32, 32)
    model(image)
    with untrimmed(model, torch.nn.Identity()):
        model(image)
    model(image)
    assert seen == [1, 1 + model.patch_embed.num_patches, 1]
