import pytest
import torch

from fvit.attention import IdentityMixer


@pytest.mark.parametrize(
    "forward",
    [{}, {"attn_mask": torch.tensor([True, False, True]).view(1, 1, 1, 3)}, {"is_causal": True}],
    ids=["plain", "masked", "causal"],
)
def test_returns_its_tokens(forward):
    x = torch.randn(2, 3, 8)
    assert torch.equal(IdentityMixer(8, 2)(x, **forward), x)


def test_has_no_state():
    assert not IdentityMixer(8, 2).state_dict()
