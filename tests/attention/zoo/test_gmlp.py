import torch
import torch.nn.functional as F
from timm.models.mlp_mixer import SpatialGatingBlock

from fvit.attention import GMLP

from ..suite import randomise


def test_with_the_papers_width_it_is_timms_block_without_norm_and_residual():
    torch.manual_seed(0)
    theirs = randomise(SpatialGatingBlock(16, seq_len=6, mlp_ratio=6, dtype=torch.float64)).mlp_channels
    ours = GMLP(16, 4, mlp_ratio=6, dtype=torch.float64)
    ours.set_layout((2, 3), 0)
    names = {"fc1.": "uv.", "gate.norm.": "norm.", "gate.proj.": "spatial.", "fc2.": "proj."}
    weights = {"_extra_state": torch.tensor([2, 3, 0])}
    for name, value in theirs.state_dict().items():
        prefix = next(prefix for prefix in names if name.startswith(prefix))
        weights[names[prefix] + name.removeprefix(prefix)] = value
    ours.load_state_dict(weights)
    x = torch.randn(2, 6, 16, dtype=torch.float64)
    torch.testing.assert_close(ours(x), theirs(x), rtol=1e-12, atol=1e-12)


def test_it_starts_as_an_mlp_of_each_token():
    torch.manual_seed(0)
    module = GMLP(16, 4)
    module.set_layout((2, 3), 1)
    x = torch.randn(2, 7, 16)
    u, _ = F.gelu(module.uv(x)).chunk(2, dim=-1)
    torch.testing.assert_close(module(x), module.proj(u), rtol=0, atol=1e-4)
