import pytest
import torch

from fvit.attention import Nystrom
from fvit.attention.zoo.nystrom import _pinv, _segment_means, _segment_weights

from ..suite import randomise


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"num_landmarks": 0}, "num_landmarks=0 leaves no landmark; take at least 1"),
        ({"iterations": -1}, "iterations=-1 is no number of steps; take 6"),
        ({"conv": 4}, "conv=4 has no centre; take an odd width, or 0 for none"),
        ({"conv": -1}, "conv=-1 has no centre"),
    ],
)
def test_options_out_of_range_are_refused(options, message):
    with pytest.raises(ValueError, match=message):
        Nystrom(16, 4, **options)


def test_the_grid_is_needed_for_the_convolution_alone():
    assert Nystrom(16, 4, conv=3).needs_grid
    assert not Nystrom(16, 4).needs_grid


@pytest.mark.parametrize(
    ("count", "expected"),
    [(1, [3]), (2, [1, 4.5]), (3, [0.5, 2.5, 5]), (7, [0, 1, 2, 3, 4, 5, 6])],
)
def test_landmarks_are_means_of_segments_the_shorter_first(count, expected):
    tokens = torch.arange(7.0)[None, None, :, None]
    assert _segment_means(tokens, count).flatten().tolist() == expected
    weights = _segment_weights(torch.zeros(1, 1, 1, 7), count)
    torch.testing.assert_close(weights @ tokens, _segment_means(tokens, count))


def test_segments_are_those_of_the_tokens_that_a_mask_leaves():
    bias = torch.zeros(1, 1, 1, 7)
    bias[..., [0, 3, 4]] = float("-inf")
    segments = _segment_weights(bias, 2)[0, 0]
    assert segments.tolist() == [[0, 0.5, 0.5, 0, 0, 0, 0], [0, 0, 0, 0, 0, 0.5, 0.5]]


def test_more_landmarks_than_tokens_are_left_leave_some_empty():
    bias = torch.full((1, 1, 1, 7), float("-inf"))
    bias[..., [2, 5]] = 0
    segments = _segment_weights(bias, 4)[0, 0]
    assert segments.sum(dim=-1).tolist() == [0, 0, 1, 1]


def test_the_iteration_tends_to_the_pseudo_inverse():
    """Of a regular matrix, of one that is not, and of one with empty rows and columns."""
    torch.manual_seed(0)
    regular = (3 * torch.randn(6, 6, dtype=torch.float64)).softmax(dim=-1)
    singular = regular[[0, 0, 1, 1, 2, 2]]
    partly_empty = torch.zeros(6, 6, dtype=torch.float64)
    partly_empty[2:, 2:] = (3 * torch.randn(4, 4, dtype=torch.float64)).softmax(dim=-1)
    for a in (regular, singular, partly_empty):
        torch.testing.assert_close(_pinv(a, 16), torch.linalg.pinv(a), rtol=1e-6, atol=1e-6)


def test_the_kernel_of_a_head_reaches_the_neighbours_in_its_channels_alone():
    torch.manual_seed(0)
    module = randomise(Nystrom(8, 2, num_landmarks=2, conv=3, dtype=torch.float64))
    module.set_layout((3, 3), 1)
    v = torch.zeros(1, 2, 10, 4, dtype=torch.float64)
    v[0, 1, 1 + 4, 2] = 1
    felt = module._convolved(v)[0]
    assert felt.nonzero()[:, [0, 2]].unique(dim=0).tolist() == [[1, 2]]
    torch.testing.assert_close(felt[1, 1:, 2].view(3, 3), module.conv.weight[1, 0].flip(0, 1))
