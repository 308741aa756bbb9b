import pytest

from fvit.models import exchange
from fvit.models.naflex import check_naflex

from .small import host_of


@pytest.mark.parametrize("attention", [None, "softmax", "linear"])
def test_model_that_hides_padding_is_accepted_as_it_is(attention):
    model = host_of("naflex").train()
    check_naflex(exchange(model, attention) if attention else model, 8)
    assert model.training


@pytest.mark.parametrize(
    ("kind", "attention", "patch_size", "message"),
    [
        ("vit", None, 8, "needs a NaFlexVit, .* and not VisionTransformer"),
        ("naflex", None, 16, r"data\.naflex=16: the patches of this model have 8 px"),
        ("naflex", "fnet", 8, "FNet transforms all tokens together and cannot hide one"),
    ],
)
def test_other_models_are_refused(kind, attention, patch_size, message):
    model = host_of(kind)
    with pytest.raises(ValueError, match=message):
        check_naflex(exchange(model, attention) if attention else model, patch_size)
