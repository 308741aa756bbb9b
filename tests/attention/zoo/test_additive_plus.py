import pytest
import torch

from fvit.attention import AdditiveAttention, AdditivePlusAttention

FASTFORMER = dict(regions=1, conv=0, value="shared", residual=True)


def test_with_fastformers_options_it_is_additive_attention():
    torch.manual_seed(0)
    ours = AdditivePlusAttention(24, 3, **FASTFORMER, dtype=torch.float64)
    ours.set_layout((4, 5), 1)
    fastformer = AdditiveAttention(24, 3, dtype=torch.float64)
    fastformer.load_state_dict(ours.state_dict())
    x = torch.randn(2, 21, 24, dtype=torch.float64)
    torch.testing.assert_close(ours(x), fastformer(x))


def test_regions_on_a_large_grid_see_first_what_is_near():
    """Before training, a token in a corner changes the context of its own corner most."""
    torch.manual_seed(0)
    module = AdditivePlusAttention(16, 2, conv=0, dtype=torch.float64)
    module.set_layout((8, 8), 0)
    x = torch.randn(1, 64, 16, dtype=torch.float64)
    other = x.clone()
    other[:, 0] += 1
    change = (module(other) - module(x)).detach().norm(dim=-1).view(8, 8)
    assert change[1, 1] > 10 * change[7, 7] > 0


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"regions": 15}, "regions=15 must be a square number, such as 9 or 16"),
        ({"gate": "sum"}, "gate='sum' must be one of product, residual"),
        ({"value": "query"}, "value='query' must be one of separate, shared"),
    ],
)
def test_wrong_options_are_refused(options, message):
    with pytest.raises(ValueError, match=message):
        AdditivePlusAttention(16, 2, **options)


def test_no_more_macs_than_softmax_at_224_px():
    import timm

    from fvit.cost import count
    from fvit.models import exchange

    vit = timm.create_model("vit_tiny_patch16_224")
    softmax = count(exchange(vit, "softmax"), 224).macs
    assert count(exchange(vit, "additive_plus"), 224).macs < softmax
