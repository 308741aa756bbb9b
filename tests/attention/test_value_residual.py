import pytest
import torch

from fvit.attention import SoftmaxAttention


def test_an_unknown_kind_is_refused():
    with pytest.raises(ValueError, match="value_residual='mean' must be one of fixed, learned"):
        SoftmaxAttention(16, 4, value_residual="mean")


def test_a_mechanism_outside_a_model_says_what_it_needs():
    with pytest.raises(RuntimeError, match="exchange the attention of a whole model"):
        SoftmaxAttention(16, 4, value_residual="fixed")(torch.randn(1, 5, 16))
