import pytest
import torch

from fvit.attention import SynthesizerAttention

from ..suite import randomise

KINDS = ("dense", "factorised_dense", "random", "factorised_random")


def maps_of(kind):
    """The maps [B, H, N, N] of two images, read out with unit vectors as values."""
    torch.manual_seed(0)
    module = randomise(SynthesizerAttention(16, 2, kind=kind, dtype=torch.float64), std=0.5)
    module.set_layout((2, 3), 1)
    randomise(module, std=0.5)
    x = torch.randn(2, 7, 16, dtype=torch.float64)
    unit = torch.cat([torch.eye(7, dtype=torch.float64), torch.zeros(7, 1, dtype=torch.float64)], dim=1).repeat(1, 2)
    module.v = torch.nn.Identity()
    module.proj = torch.nn.Identity()
    if module.q is not None:
        queries = module.q(x)
        module.q = torch.nn.Identity()
        module.q.forward = lambda tokens: queries
    return module(unit.expand(2, 7, 16)).unflatten(-1, (2, 8))[..., :7].transpose(1, 2)


@pytest.mark.parametrize("kind", KINDS)
def test_rows_sum_to_one_and_dense_maps_depend_on_the_image(kind):
    maps = maps_of(kind)
    torch.testing.assert_close(maps.sum(dim=-1), torch.ones_like(maps[..., 0]))
    assert torch.equal(maps[0], maps[1]) is kind.endswith("random")
    assert not torch.allclose(maps[0, 0], maps[0, 1])


@pytest.mark.parametrize("kind", ["dense", "factorised_dense"])
def test_a_row_of_a_dense_map_depends_only_on_its_own_token(kind):
    torch.manual_seed(0)
    module = SynthesizerAttention(16, 2, kind=kind, dtype=torch.float64)
    module.set_layout((2, 3), 1)
    randomise(module)
    x = torch.randn(1, 7, 16, dtype=torch.float64)
    changed = x.clone()
    changed[:, 4] += 1
    affected = (module._logits(changed) - module._logits(x)).abs().amax(dim=(0, 1, 3)) > 0
    assert affected.nonzero().flatten().tolist() == [4]


def test_factors_have_the_given_rank():
    torch.manual_seed(0)
    for rank, expected in ((None, 8), (3, 3)):
        module = SynthesizerAttention(16, 2, kind="factorised_random", rank=rank, dtype=torch.float64)
        module.set_layout((4, 4), 1)
        randomise(module)
        assert torch.linalg.matrix_rank(module._logits(torch.zeros(1, 17, 16))).tolist() == [expected] * 2


def test_logits_of_patches_are_products_of_a_row_and_a_column():
    torch.manual_seed(0)
    module = SynthesizerAttention(16, 2, kind="factorised_dense", dtype=torch.float64)
    module.set_layout((3, 4), 2)
    randomise(module)
    patches = module._logits(torch.randn(1, 14, 16, dtype=torch.float64))[..., 2:].unflatten(-1, (3, 4))
    assert (torch.linalg.matrix_rank(patches) <= 1).all()
    assert module.needs_grid


def test_a_dense_map_is_not_saved_for_the_backward_pass():
    module = SynthesizerAttention(16, 2)
    module.set_layout((8, 8), 1)
    saved = []
    with torch.autograd.graph.saved_tensors_hooks(lambda t: saved.append(t.numel()) or t, lambda t: t):
        module(torch.randn(2, 65, 16))
    assert max(saved) < 65 * 65
