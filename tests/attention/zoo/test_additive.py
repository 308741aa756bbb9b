import pytest
import torch

from fvit.attention import Additive


@pytest.mark.parametrize("qkv_bias", [True, False])
def test_qkv_bias_is_on_query_and_key_only(qkv_bias):
    biased = {name for name, _ in Additive(8, 2, qkv_bias=qkv_bias).named_parameters() if name.endswith("bias")}
    assert biased == ({"q.bias", "k.bias", "transform.bias"} if qkv_bias else {"transform.bias"})


@pytest.mark.parametrize("option", ["logits", "value", "form"])
def test_unknown_choice_is_refused_with_the_known_ones(option):
    known = {"logits": "per_head, full", "value": "shared, separate", "form": "auto, textbook, factored, folded"}[
        option
    ]
    with pytest.raises(ValueError, match=f"{option}='nonsense' is none of {known}"):
        Additive(8, 2, **{option: "nonsense"})


@pytest.mark.parametrize(
    ("options", "expected"),
    [
        ({}, 3 * (64 * 64 + 64) + 2 * 64),
        ({"logits": "full"}, 3 * (64 * 64 + 64) + 2 * 4 * 64),
        ({"value": "separate"}, 4 * (64 * 64 + 64) + 2 * 64),
        ({"proj": True}, 4 * (64 * 64 + 64) + 2 * 64),
        ({"qkv_bias": False}, 3 * 64 * 64 + 64 + 2 * 64),
    ],
    ids=str,
)
def test_number_of_parameters(options, expected):
    assert sum(p.numel() for p in Additive(64, 4, **options).parameters()) == expected


def test_logit_vectors_are_drawn_like_timms_linears():
    torch.manual_seed(0)
    module = Additive(256, 8)
    for weight in (module.query_logit, module.key_logit):
        assert weight.detach().std() == pytest.approx(0.02, rel=0.2)
