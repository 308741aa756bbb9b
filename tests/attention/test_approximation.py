"""Approximations of softmax attention converge with more features, landmarks or projected tokens.

Errors are ‖difference‖ / ‖softmax attention‖ with the same weights, averaged over draws of weights and tokens.
"""

import math
from itertools import pairwise

import torch

from fvit.attention import get

WIDTH, HEADS, TOKENS = 32, 2, 64
DRAWS = range(8)


def attention(key, draw, std=0.1, **options):
    """A mechanism on 8×8 tokens; all mechanisms of a draw have the same projections."""
    module = get(key)(WIDTH, HEADS, dtype=torch.float64, **options)
    module.set_layout((8, 8), 0)
    generator = torch.Generator().manual_seed(draw)
    for projection in (module.qkv, module.proj):
        for parameter in projection.parameters():
            torch.nn.init.normal_(parameter, std=std, generator=generator)
    return module.requires_grad_(False)


def random_tokens(draw):
    return torch.randn(4, TOKENS, WIDTH, generator=torch.Generator().manual_seed(draw), dtype=torch.float64)


def smooth_tokens(draw):
    """Four waves along the sequence, which a few tokens determine."""
    place = (torch.arange(TOKENS, dtype=torch.float64) + 0.5) / TOKENS
    waves = torch.cos(math.pi * place[:, None] * torch.arange(1, 5))
    return waves @ torch.randn(4, 4, WIDTH, generator=torch.Generator().manual_seed(draw), dtype=torch.float64)


def mean_error(tokens, make, std=0.1):
    """Error of `make(draw)` on `tokens(draw)`, averaged over the draws."""
    errors = []
    for draw in DRAWS:
        x = tokens(draw)
        exact = attention("softmax", draw, std)(x)
        errors.append(((make(draw)(x) - exact).norm() / exact.norm()).item())
    return sum(errors) / len(errors)


def quotients(errors):
    """Each error divided by the next."""
    return [earlier / later for earlier, later in pairwise(errors)]


def test_performers_error_decreases_with_the_root_of_its_features():
    """Four times as many halve the error, as for any mean of random samples."""

    def error(features):
        return mean_error(
            random_tokens,
            lambda draw: attention("performer", draw, std=0.05, num_features=features, seed=draw),
            std=0.05,
        )

    assert all(1.6 < quotient < 2.4 for quotient in quotients([error(m) for m in (4, 16, 64, 256, 1024)]))


def nystrom_errors(tokens, landmarks, iterations):
    return [
        mean_error(tokens, lambda draw, m=m: attention("nystrom", draw, num_landmarks=m, iterations=iterations))
        for m in landmarks
    ]


def test_nystroms_error_decreases_with_its_landmarks():
    errors = nystrom_errors(random_tokens, (1, 2, 4, 8, 16, 32, 63), iterations=6)
    assert all(quotient > 1 for quotient in quotients(errors))
    assert errors[0] > 10 * errors[-1]


def test_nystrom_needs_few_landmarks_for_smooth_tokens():
    errors = nystrom_errors(smooth_tokens, (4, 8, 16, 32), iterations=20)
    assert all(quotient > 10 for quotient in quotients(errors))
    assert errors[-1] < 1e-4


def average_segments(linformer):
    """E and F average segments of tokens, the paper's mean pooling, and are identities for N segments."""
    rows = len(linformer.key_projection.weight)
    for projection in (linformer.key_projection, linformer.value_projection):
        projection.weight.copy_(torch.eye(rows).repeat_interleave(TOKENS // rows, dim=1) * rows / TOKENS)
    return linformer


def test_linformers_error_decreases_with_its_projected_tokens():
    """As for a midpoint rule, once the rows resolve the waves, twice as many leave a quarter of the error."""
    errors = [
        mean_error(smooth_tokens, lambda draw, k=k: average_segments(attention("linformer", draw, projected_tokens=k)))
        for k in (1, 2, 4, 8, 16, 32, 64)
    ]
    assert all(quotient > 1 for quotient in quotients(errors))
    assert all(quotient > 3.5 for quotient in quotients(errors[2:]))
    assert errors[-1] < 1e-14
