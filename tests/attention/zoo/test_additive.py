import pytest
import torch

from fvit.attention import AdditiveAttention


@pytest.mark.parametrize("qkv_bias", [True, False])
def test_qkv_bias_applies_to_query_and_key_only(qkv_bias):
    module = AdditiveAttention(8, 2, qkv_bias=qkv_bias)
    biased = {name for name, _ in module.named_parameters() if name.endswith("bias")}
    assert biased == ({"q.bias", "k.bias", "transform.bias"} if qkv_bias else {"transform.bias"})


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
    assert sum(p.numel() for p in AdditiveAttention(64, 4, **options).parameters()) == expected


def test_logit_vectors_are_initialised_like_timms_linears():
    torch.manual_seed(0)
    module = AdditiveAttention(256, 8)
    for weight in (module.query_logit, module.key_logit):
        assert weight.detach().std() == pytest.approx(0.02, rel=0.2)
