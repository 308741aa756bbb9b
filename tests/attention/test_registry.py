import copy
import functools
import pickle

import pytest
import timm
import torch
from timm.models.vision_transformer import VisionTransformer

import fvit.attention
from fvit.attention import (
    AdditiveAttention,
    IdentityMixer,
    LinearAttention,
    Mechanism,
    SoftmaxAttention,
    bind,
    get,
    names,
    register,
    registry,
)

SMALL = dict(img_size=32, patch_size=8, embed_dim=24, depth=2, num_heads=3, num_classes=5)


@pytest.fixture
def scratch_registry(monkeypatch):
    """A copy of the registry, so that a test's mechanisms do not outlive it."""
    monkeypatch.setattr(registry, "_MECHANISMS", dict(registry._MECHANISMS))


def test_names_lists_all_sorted():
    assert {"additive", "identity", "linear", "softmax"} <= set(names())
    assert names() == sorted(names())


def test_get_returns_the_class():
    assert get("additive") is AdditiveAttention
    assert all(issubclass(get(name), Mechanism) for name in names())


def test_an_unknown_name_is_refused_with_all_names():
    with pytest.raises(ValueError, match=r"'addditive'; registered: additive, additive_plus, aft_full, .*, xca"):
        get("addditive")


@pytest.mark.usefixtures("scratch_registry")
def test_register_makes_a_mechanism_known():
    @register("mine")
    class Mine(IdentityMixer):
        pass

    assert "mine" in names()
    assert get("mine") is Mine


@pytest.mark.usefixtures("scratch_registry")
def test_register_refuses_a_taken_name():
    with pytest.raises(ValueError, match="'additive' is already registered, as AdditiveAttention"):
        register("additive")(IdentityMixer)
    assert get("additive") is AdditiveAttention


OLD_NAMES = (
    "Additive AftFull AftSimple Agent Catm Cosformer Differential Efficient FNet Focused GFNet GMLP Gated Hydra "
    "Identity InLine Linear Linformer Mala Mixer Mlla Nystrom Performer PermuteMlp Pola Pool Random Relu ReluLinear "
    "Separable Sigmoid Softmax SwiftFormer Synthesizer Window Xca"
)


def test_the_class_names_of_version_0_1_still_work():
    found = {getattr(fvit.attention, name) for name in OLD_NAMES.split()}
    assert len(found) == 36
    assert found <= {get(name) for name in names()}


@pytest.mark.parametrize(
    "path",
    [
        "fvit.attention:AdditiveAttention",
        "fvit.attention:Additive",
        "fvit.attention.zoo.additive:AdditiveAttention",
        "fvit.attention.zoo.additive:Additive",
        "fvit.attention.additive:Additive",
    ],
)
def test_a_class_is_found_by_its_import_path_of_any_version(path):
    assert get(path) is AdditiveAttention


@pytest.mark.parametrize("name", ["additive:", ":Additive", "a b:Additive", ".additive:Additive", "a:b:c"])
def test_a_malformed_import_path_is_refused(name):
    with pytest.raises(ValueError, match=f"'{name}' must have the form package.module:Class"):
        get(name)


@pytest.mark.parametrize(("module", "missing"), [("nowhere", "nowhere"), ("fvit.attention.nowhere", None)])
def test_a_missing_module_is_refused_with_the_remedy(module, missing):
    with pytest.raises(ValueError, match=f"no module '{missing or module}'; install it or add its folder to PYTH"):
        get(f"{module}:Mine")


def test_a_failing_import_inside_the_module_is_not_hidden(tmp_path, monkeypatch):
    (tmp_path / "lacking.py").write_text("import nowhere")
    monkeypatch.syspath_prepend(tmp_path)
    with pytest.raises(ModuleNotFoundError, match="No module named 'nowhere'"):
        get("lacking:Mine")


@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("LinearAttentio", r"has no mechanism 'LinearAttentio'; it has: .*LinearAttention"),
        ("torch", "has no mechanism 'torch'.* A mechanism is a subclass of fvit.attention.Mechanism"),
    ],
)
def test_a_class_that_is_not_a_mechanism_is_refused(name, message):
    with pytest.raises(ValueError, match=message):
        get(f"fvit.attention.zoo.linear:{name}")


def test_bind_gives_a_subclass_with_its_name():
    bound = bind(AdditiveAttention, logits="full")
    assert issubclass(bound, AdditiveAttention)
    assert bound is not AdditiveAttention
    assert bound.__name__ == "AdditiveAttention"


def test_bind_without_options_gives_the_class_itself():
    assert bind(AdditiveAttention) is AdditiveAttention


def test_bind_does_not_change_the_class():
    bind(AdditiveAttention, logits="full")
    assert AdditiveAttention(8, 2).logits == "per_head"


def test_bound_options_override_arguments():
    module = bind(SoftmaxAttention, num_heads=4, qkv_bias=False, proj_drop=0.25)(
        8, num_heads=2, qkv_bias=True, proj_drop=0.5
    )
    assert module.num_heads == 4
    assert module.qkv.bias is None
    assert module.proj_drop.p == 0.25


@pytest.mark.parametrize(
    "cls", [bind(AdditiveAttention, logits="full", qkv_bias=False), SoftmaxAttention, LinearAttention, IdentityMixer]
)
def test_goes_into_timms_own_attn_layer(cls):
    host = VisionTransformer(**SMALL, qkv_bias=True, attn_layer=cls)
    assert all(type(block.attn) is cls for block in host.blocks)
    assert host(torch.randn(2, 3, 32, 32)).shape == (2, 5)


def test_bound_options_override_what_timm_passes():
    host = VisionTransformer(**SMALL, qkv_bias=True, attn_layer=bind(AdditiveAttention, logits="full", qkv_bias=False))
    for block in host.blocks:
        assert block.attn.q.bias is None
        assert block.attn.query_logit.shape == (3, 24)


def test_bound_class_goes_through_create_model():
    host = timm.create_model("vit_tiny_patch16_224", **SMALL, attn_layer=bind(AdditiveAttention, value="separate"))
    assert host.blocks[0].attn.v is not None


def test_timm_does_not_take_a_partial_as_attn_layer():
    """The reason why `bind` makes a class."""
    with pytest.raises(TypeError):
        VisionTransformer(**SMALL, attn_layer=functools.partial(AdditiveAttention, logits="full"))


def test_bind_refuses_an_unknown_option_with_all_options():
    options = (
        "dim, num_heads, qkv_bias, qk_norm, proj_bias, norm_layer, kv_heads, rotary, talking_heads, value_residual, "
        "attn_drop, proj_drop, conv, device, dtype"
    )
    with pytest.raises(ValueError, match=f"SoftmaxAttention has no option 'logits'; it takes: {options}"):
        bind(SoftmaxAttention, logits="full")


def test_bound_class_can_be_bound_again():
    module = bind(bind(AdditiveAttention, logits="full"), value="separate")(8, 2)
    assert module.logits == "full"
    assert module.v is not None


@pytest.mark.parametrize("copied", [copy.deepcopy, lambda module: pickle.loads(pickle.dumps(module))])
def test_a_module_of_a_bound_class_is_copied_with_its_options(copied):
    module = bind(bind(AdditiveAttention, logits="full"), value="separate")(8, 2)
    twin = copied(module)
    x = torch.randn(1, 4, 8)
    assert torch.equal(twin(x), module(x))
    assert not {id(p) for p in twin.parameters()} & {id(p) for p in module.parameters()}
    again = type(twin)(8, 2)
    assert (again.logits, again.v is None, registry.unbound(type(twin))) == ("full", False, AdditiveAttention)


class Derived(bind(AdditiveAttention, logits="full")):
    pass


def test_a_subclass_of_a_bound_class_is_pickled_by_its_name():
    assert type(pickle.loads(pickle.dumps(Derived(8, 2)))) is Derived


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"proj": "abc"}, "AdditiveAttention: proj='abc' must be bool"),
        ({"num_heads": "3"}, "AdditiveAttention: num_heads='3' must be int"),
        ({"num_heads": True}, "num_heads=True must be int"),
        ({"attn_drop": "0.1"}, "attn_drop='0.1' must be float"),
    ],
)
def test_bind_refuses_a_value_of_another_type(options, message):
    with pytest.raises(ValueError, match=message):
        bind(AdditiveAttention, **options)


def test_bind_takes_an_integer_for_a_float_and_none_where_it_is_declared():
    assert bind(AdditiveAttention, attn_drop=0)(8, 2).attn_drop.p == 0
    bind(get("performer"), num_features=None)
    bind(get("performer"), num_features=8)
