import functools

import pytest
import timm
import torch
from timm.models.vision_transformer import VisionTransformer

from fvit.attention import Additive, Identity, Linear, Mechanism, Softmax, bind, get, names, register, registry

SMALL = dict(img_size=32, patch_size=8, embed_dim=24, depth=2, num_heads=3, num_classes=5)


@pytest.fixture
def scratch_registry(monkeypatch):
    """A copy of the registry, so that a test's mechanisms do not outlive it."""
    monkeypatch.setattr(registry, "_MECHANISMS", dict(registry._MECHANISMS))


def test_names_lists_all_sorted():
    assert {"additive", "identity", "linear", "softmax"} <= set(names())
    assert names() == sorted(names())


@pytest.mark.parametrize(
    ("name", "cls"), [("additive", Additive), ("identity", Identity), ("linear", Linear), ("softmax", Softmax)]
)
def test_get_returns_the_class(name, cls):
    assert get(name) is cls


@pytest.mark.parametrize("name", names())
def test_every_name_is_a_mechanism(name):
    assert issubclass(get(name), Mechanism)


@pytest.mark.parametrize(("wrong", "nearest"), [("addditive", "additive"), ("sofmax", "softmax")])
def test_unknown_name_is_refused_with_the_nearest(wrong, nearest):
    with pytest.raises(ValueError, match=rf"unknown attention '{wrong}', did you mean .*{nearest}"):
        get(wrong)


def test_unknown_name_far_from_all_lists_all():
    with pytest.raises(ValueError, match=r"registered: .*additive.*softmax") as error:
        get("qqqqqq")
    assert "did you mean" not in str(error.value)


@pytest.mark.usefixtures("scratch_registry")
def test_register_makes_a_mechanism_known():
    @register("mine")
    class Mine(Identity):
        pass

    assert "mine" in names()
    assert get("mine") is Mine


@pytest.mark.usefixtures("scratch_registry")
def test_register_refuses_a_taken_name():
    with pytest.raises(ValueError, match="'additive' is already registered, as Additive"):
        register("additive")(Identity)
    assert get("additive") is Additive


def test_a_class_can_be_named_by_where_it_is():
    assert get("fvit.attention.zoo.additive:Additive") is Additive


@pytest.mark.parametrize("name", ["additive:", ":Additive", "a b:Additive", ".additive:Additive", "a:b:c"])
def test_a_place_of_another_form_is_refused(name):
    with pytest.raises(ValueError, match=f"'{name}' is not of the form package.module:Class"):
        get(name)


@pytest.mark.parametrize(("module", "missing"), [("nowhere", "nowhere"), ("fvit.attention.nowhere", None)])
def test_a_module_that_is_not_there_is_told_with_the_remedy(module, missing):
    with pytest.raises(ValueError, match=f"no module '{missing or module}' here; install it or put its folder on PYTH"):
        get(f"{module}:Mine")


def test_what_a_module_itself_lacks_is_its_own_error(tmp_path, monkeypatch):
    (tmp_path / "lacking.py").write_text("import nowhere")
    monkeypatch.syspath_prepend(tmp_path)
    with pytest.raises(ModuleNotFoundError, match="No module named 'nowhere'"):
        get("lacking:Mine")


@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("Linea", r"has no mechanism 'Linea', did you mean Linear\?; it has: .*Linear"),
        ("torch", "has no mechanism 'torch'.* A mechanism is a subclass of fvit.attention.Mechanism"),
    ],
)
def test_a_class_that_is_no_mechanism_is_told(name, message):
    with pytest.raises(ValueError, match=message):
        get(f"fvit.attention.zoo.linear:{name}")


def test_bind_gives_a_subclass_with_its_name():
    bound = bind(Additive, logits="full")
    assert issubclass(bound, Additive)
    assert bound is not Additive
    assert bound.__name__ == "Additive"


def test_bind_without_options_gives_the_class_itself():
    assert bind(Additive) is Additive


def test_bind_does_not_change_the_class():
    bind(Additive, logits="full")
    assert Additive(8, 2).logits == "per_head"


def test_bound_options_win_over_what_is_passed():
    module = bind(Softmax, num_heads=4, qkv_bias=False, proj_drop=0.25)(8, num_heads=2, qkv_bias=True, proj_drop=0.5)
    assert module.num_heads == 4
    assert module.qkv.bias is None
    assert module.proj_drop.p == 0.25


@pytest.mark.parametrize("cls", [bind(Additive, logits="full", qkv_bias=False), Additive, Softmax, Linear, Identity])
def test_goes_into_timms_own_attn_layer(cls):
    host = VisionTransformer(**SMALL, qkv_bias=True, attn_layer=cls)
    assert all(type(block.attn) is cls for block in host.blocks)
    assert host(torch.randn(2, 3, 32, 32)).shape == (2, 5)


def test_bound_options_win_over_what_timm_passes():
    host = VisionTransformer(**SMALL, qkv_bias=True, attn_layer=bind(Additive, logits="full", qkv_bias=False))
    for block in host.blocks:
        assert block.attn.q.bias is None
        assert block.attn.query_logit.shape == (3, 24)


def test_bound_class_goes_through_create_model():
    host = timm.create_model("vit_tiny_patch16_224", **SMALL, attn_layer=bind(Additive, value="separate"))
    assert host.blocks[0].attn.v is not None


def test_timm_takes_no_partial_for_attn_layer():
    """The reason why `bind` makes a class. If timm takes partials one day, it may go."""
    with pytest.raises(TypeError):
        VisionTransformer(**SMALL, attn_layer=functools.partial(Additive, logits="full"))


@pytest.mark.parametrize(("wrong", "nearest"), [("logit", "logits"), ("num_head", "num_heads"), ("projj", "proj")])
def test_bind_refuses_an_unknown_option_with_the_nearest(wrong, nearest):
    with pytest.raises(ValueError, match=rf"no option '{wrong}', did you mean .*{nearest}.*it takes: dim, num_heads"):
        bind(Additive, **{wrong: 1})


def test_bind_refuses_another_mechanisms_option():
    with pytest.raises(ValueError, match="Softmax has no option 'logits'"):
        bind(Softmax, logits="full")


def test_bound_class_can_be_bound_again():
    module = bind(bind(Additive, logits="full"), value="separate")(8, 2)
    assert module.logits == "full"
    assert module.v is not None
