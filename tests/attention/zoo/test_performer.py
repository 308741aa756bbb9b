import torch

from fvit.attention import PerformerAttention


def test_features_are_orthogonal_within_blocks_and_have_the_lengths_of_gaussians():
    features = PerformerAttention(256, 4, num_features=150, dtype=torch.float64).features
    for block in features.split(64, dim=1):
        gram = block @ block.mT
        assert (gram - torch.diag_embed(gram.diagonal(dim1=1, dim2=2))).abs().max() < 1e-10
    assert abs(features.square().sum(dim=-1).mean() - 64) < 2
    assert features.norm(dim=-1).std() > 0.5


def test_the_seed_determines_the_features_and_heads_differ():
    one, again, other = (PerformerAttention(16, 2, seed=seed).features for seed in (0, 0, 1))
    assert torch.equal(one, again)
    assert not torch.equal(one, other)
    assert not torch.equal(one[0], one[1])
