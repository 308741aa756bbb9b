import pytest
import torch
from timm.models.mlp_mixer import MixerBlock

from fvit.attention import Mixer

from ..suite import randomise


def test_no_hidden_width_is_refused():
    with pytest.raises(ValueError, match=r"mlp_ratio=0.01 of width 16 leaves nothing; take 0.5"):
        Mixer(16, 4, mlp_ratio=0.01)


def test_is_timms_token_mixing():
    torch.manual_seed(0)
    theirs = randomise(MixerBlock(16, seq_len=6, dtype=torch.float64)).mlp_tokens
    ours = Mixer(16, 4, dtype=torch.float64)
    ours.set_layout((2, 3), 0)
    ours.load_state_dict({**theirs.state_dict(), "_extra_state": torch.tensor([2, 3, 0])})
    x = torch.randn(2, 6, 16, dtype=torch.float64)
    torch.testing.assert_close(ours(x), theirs(x.transpose(1, 2)).transpose(1, 2), rtol=1e-12, atol=1e-12)


def test_channels_do_not_meet():
    module = randomise(Mixer(16, 4, dtype=torch.float64))
    module.set_layout((2, 3), 1)
    x = torch.randn(1, 7, 16, dtype=torch.float64)
    changed = x.clone()
    changed[:, 2, 5] += 1
    felt = (module(changed) - module(x)).abs().amax(dim=(0, 1)) > 0
    assert felt.nonzero().flatten().tolist() == [5]
