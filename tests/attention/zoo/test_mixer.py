import torch
from timm.models.mlp_mixer import MixerBlock

from fvit.attention import TokenMixingMLP

from ..suite import randomise


def test_equals_timms_token_mixing():
    torch.manual_seed(0)
    theirs = randomise(MixerBlock(16, seq_len=6, dtype=torch.float64)).mlp_tokens
    ours = TokenMixingMLP(16, 4, dtype=torch.float64)
    ours.set_layout((2, 3), 0)
    ours.load_state_dict({**theirs.state_dict(), "_extra_state": torch.tensor([2, 3, 0])})
    x = torch.randn(2, 6, 16, dtype=torch.float64)
    torch.testing.assert_close(ours(x), theirs(x.transpose(1, 2)).transpose(1, 2), rtol=1e-12, atol=1e-12)


def test_channels_are_not_mixed():
    module = randomise(TokenMixingMLP(16, 4, dtype=torch.float64))
    module.set_layout((2, 3), 1)
    x = torch.randn(1, 7, 16, dtype=torch.float64)
    changed = x.clone()
    changed[:, 2, 5] += 1
    affected = (module(changed) - module(x)).abs().amax(dim=(0, 1)) > 0
    assert affected.nonzero().flatten().tolist() == [5]
