import pytest
import torch

from fvit.attention import NystromAttention, SoftmaxAttention
from fvit.attention.zoo.nystrom import _pinv, _segment_means, _segment_weights

from ..suite import randomise


@pytest.mark.parametrize(
    ("count", "expected"),
    [(1, [3]), (2, [1, 4.5]), (3, [0.5, 2.5, 5]), (7, [0, 1, 2, 3, 4, 5, 6])],
)
def test_landmarks_are_means_of_segments_with_the_shorter_ones_first(count, expected):
    tokens = torch.arange(7.0)[None, None, :, None]
    assert _segment_means(tokens, count).flatten().tolist() == expected
    weights = _segment_weights(torch.zeros(1, 1, 1, 7), count)
    torch.testing.assert_close(weights @ tokens / weights.sum(-1, keepdim=True), _segment_means(tokens, count))


def test_segments_consist_of_the_tokens_that_a_mask_keeps():
    bias = torch.zeros(1, 1, 1, 7)
    bias[..., [0, 3, 4]] = float("-inf")
    segments = _segment_weights(bias, 2)[0, 0]
    assert segments.tolist() == [[0, 1, 1, 0, 0, 0, 0], [0, 0, 0, 0, 0, 1, 1]]


def test_with_fewer_tokens_than_landmarks_some_are_empty():
    bias = torch.full((1, 1, 1, 7), float("-inf"))
    bias[..., [2, 5]] = 0
    segments = _segment_weights(bias, 4)[0, 0]
    assert segments.sum(dim=-1).tolist() == [0, 0, 1, 1]


def nystrom_and_softmax(num_landmarks):
    """With the same weights, and three images of 9 tokens."""
    torch.manual_seed(0)
    nystrom = randomise(NystromAttention(8, 2, num_landmarks=num_landmarks, dtype=torch.float64))
    softmax = SoftmaxAttention(8, 2, dtype=torch.float64)
    softmax.load_state_dict(nystrom.state_dict())
    return nystrom, softmax, torch.randn(3, 9, 8, dtype=torch.float64)


@pytest.mark.parametrize("num_landmarks", [8, 9, 10, 64])
def test_as_many_landmarks_as_tokens_are_softmax_attention(num_landmarks):
    nystrom, softmax, x = nystrom_and_softmax(num_landmarks)
    assert torch.allclose(nystrom(x), softmax(x), rtol=1e-12, atol=1e-12) == (num_landmarks >= 9)


@pytest.mark.parametrize("visible", [1, 3, 4, 5, 9])
@pytest.mark.parametrize("kind", ["bool", "log"])
def test_as_many_landmarks_as_a_mask_leaves_tokens_are_softmax_attention(visible, kind):
    nystrom, softmax, x = nystrom_and_softmax(4)
    seen = torch.rand(3, 1, 1, 9).argsort(dim=-1) < visible
    mask = seen if kind == "bool" else torch.rand(3, 1, 1, 9).double().log().masked_fill(~seen, float("-inf"))
    found, expected = nystrom(x, attn_mask=mask), softmax(x, attn_mask=mask)
    assert torch.allclose(found, expected, rtol=1e-10, atol=1e-10) == (visible <= 4)


def test_the_iteration_converges_to_the_pseudo_inverse():
    """For a regular and a singular matrix, and one with zero rows and columns."""
    torch.manual_seed(0)
    regular = (3 * torch.randn(6, 6, dtype=torch.float64)).softmax(dim=-1)
    singular = regular[[0, 0, 1, 1, 2, 2]]
    partly_empty = torch.zeros(6, 6, dtype=torch.float64)
    partly_empty[2:, 2:] = (3 * torch.randn(4, 4, dtype=torch.float64)).softmax(dim=-1)
    for a in (regular, singular, partly_empty):
        torch.testing.assert_close(_pinv(a, 16), torch.linalg.pinv(a), rtol=1e-6, atol=1e-6)


def test_a_heads_kernel_reaches_its_neighbours_in_one_channel_only():
    torch.manual_seed(0)
    module = randomise(NystromAttention(8, 2, num_landmarks=2, conv=3, dtype=torch.float64))
    module.set_layout((3, 3), 1)
    v = torch.zeros(1, 2, 10, 4, dtype=torch.float64)
    v[0, 1, 1 + 4, 2] = 1
    affected = module.convolve(v)[0]
    assert affected.nonzero()[:, [0, 2]].unique(dim=0).tolist() == [[1, 2]]
    torch.testing.assert_close(affected[1, 1:, 2].view(3, 3), module.conv.weight[1, 0].flip(0, 1))
