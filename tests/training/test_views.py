import numpy as np
import pytest
import torch
from PIL import Image
from torch import nn
from torchvision.transforms.v2.functional import five_crop

from fvit.data.formats import decode
from fvit.data.transforms.five_crop import FiveCrop
from fvit.data.transforms.image import EvalTransform
from fvit.training.views import VIEWS, AveragedViews


class Columns(nn.Module):
    """Logits that depend on where an image is bright."""

    def forward(self, images):
        return images.mean(dim=(1, 2))[:, :4]


@pytest.mark.parametrize("name", VIEWS)
def test_probabilities_are_averaged_over_the_views(name):
    crops, flip = VIEWS[name]
    views = torch.randn(3, crops, 3, 5, 6, generator=torch.Generator().manual_seed(0))
    below = views.transpose(1, 2).flatten(2, 3)  # [B, 3, crops · H, W]
    every = [views[:, index] for index in range(crops)]
    every += [view.flip(-1) for view in every] * flip
    expected = torch.stack([Columns()(view).softmax(dim=1) for view in every]).mean(dim=0)
    found = AveragedViews(Columns(), crops, flip)(below)
    torch.testing.assert_close(found.exp(), expected)
    torch.testing.assert_close(found.softmax(dim=1), expected)


@pytest.mark.parametrize("size", [(40, 30), (30, 40), (32, 32)])
def test_five_crops_are_those_of_torchvision(size):
    pixels = np.random.default_rng(0).integers(256, size=(*size, 3), dtype=np.uint8)
    crops = FiveCrop(decode.choose(), 16, 0.8)(pixels)
    assert crops.shape == (5 * 16, 16, 3)
    side = 20
    height, width = (round(side * edge / min(size)) for edge in size)
    plain = EvalTransform(decode.choose(), 16, 0.8)
    resized = plain.resized(pixels)
    assert resized.shape[:2] in {(height, width), (int(side * size[0] / min(size)), int(side * size[1] / min(size)))}
    expected = five_crop(Image.fromarray(resized.numpy()), [16, 16])
    for index, crop in enumerate(expected):
        assert torch.equal(crops[16 * index : 16 * (index + 1)], torch.from_numpy(np.array(crop)))
    assert torch.equal(crops[-16:], plain(pixels)), "the last one is the centre"
