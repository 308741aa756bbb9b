import math

import pytest
import torch
from torch import nn

from fvit.cost import count


class Does(nn.Module):
    def __init__(self, work):
        super().__init__()
        self.work = work

    def forward(self, x):
        return self.work(x)


def macs(work, channels=2, rows=4, columns=8):
    """Of `work` on one image [1, C, H, W]."""
    return count(Does(work), (channels, rows, columns)).macs


N = 2 * 4 * 8


@pytest.mark.parametrize(
    ("work", "expected"),
    [
        (lambda x: x * x, N),
        (lambda x: x.mul_(x), N),
        (lambda x: x * x[:, :1], N),
        (lambda x: x * 3.0, 0),
        (lambda x: x * torch.tensor(3.0), 0),
        (lambda x: x + x, 0),
        (lambda x: x.exp(), 0),
        (lambda x: torch.nn.functional.avg_pool2d(x, (2, 4)), N),
        (lambda x: torch.nn.functional.adaptive_avg_pool2d(x, (2, 2)), N),
        (lambda x: torch.nn.functional.adaptive_avg_pool2d(x[0], (2, 2)), N),
        # Windows of 2, 2 and 2 rows that overlap, and of 3, 4 and 3 columns.
        (lambda x: torch.nn.functional.adaptive_avg_pool2d(x, 3), 2 * 6 * 10),
        (lambda x: torch.addcmul(x, x, x), N),
        (lambda x: x.flatten(1)[0].dot(x.flatten()), N),
        (lambda x: x[0, 0].mv(x[0, 0, 0]), 4 * 8),
        (lambda x: torch.addmv(x[0, 0, :, 0], x[0, 0], x[0, 0, 0]), 4 * 8),
        (lambda x: x[0] @ x[0].transpose(1, 2), 2 * 4 * 8 * 4),
    ],
)
def test_products_of_tensors_count_and_nothing_else_does(work, expected):
    assert macs(work) == expected


def test_a_complex_product_is_four_real_ones_and_a_mixed_one_two():
    twice = 5 * N * 5  # the transforms of 32 points to make complex numbers: 5 n log2 n FLOPs each
    spectrum = lambda x: torch.fft.fft2(torch.complex(x, x))  # noqa: E731
    assert macs(lambda x: spectrum(x) * spectrum(x)) == twice + 4 * N
    assert macs(lambda x: spectrum(x) * x) == twice // 2 + 2 * N


def test_fourier_transforms_count_as_radix_2_does():
    complex_one = round(2.5 * N * math.log2(4 * 8))
    assert macs(lambda x: torch.fft.fft2(torch.complex(x, x))) == complex_one
    assert macs(torch.fft.rfft2) == complex_one // 2
    assert macs(lambda x: torch.fft.irfft2(torch.fft.rfft2(x))) == complex_one
    assert macs(lambda x: torch.fft.rfft(x, dim=2)) == round(1.25 * N * math.log2(4))
