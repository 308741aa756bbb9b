import random

import numpy as np
import pytest
import torch
from PIL import Image
from scipy.stats import ks_2samp
from timm.data.naflex_transforms import RandomResizedCropToSequence, ResizeToSequence, patchify_image

from fvit.data import ImageDataModule
from fvit.data.formats.decode import Decoder
from fvit.data.images import BadImage
from fvit.data.transforms.naflex import NaFlexEval, NaFlexTrain
from tests.data.pictures import photo

SIZE, PATCH = 48, 8
WIDE, HIGH, SQUARE = (100, 33), (30, 200), (16, 16)


def valid(sample):
    """Pixels, rows and columns of the patches that are no padding, all of which come first."""
    count = int(sample[:, -1].sum())
    assert sample[:count, -1].eq(1).all()
    assert sample[count:].eq(0).all()
    return sample[:count, :-3], sample[:count, -3:-1].long()


@pytest.mark.parametrize("shape", [WIDE, HIGH, SQUARE, (64, 48)])
def test_validation_images_are_those_of_timm(shape):
    pixels = photo(*shape)
    resized = ResizeToSequence(PATCH, SIZE**2 // PATCH**2)(Image.fromarray(pixels))
    expected, places, _ = patchify_image(torch.from_numpy(np.array(resized)).permute(2, 0, 1), (PATCH, PATCH))
    sample = NaFlexEval(Decoder("pil"), SIZE, PATCH)(pixels)
    assert sample.shape == (36, 3 * PATCH**2 + 3)
    patches, found = valid(sample)
    assert torch.equal(found, places)
    assert len(patches) > 24
    difference = (patches.int() - expected.int()).abs()  # torch's resampling rounds otherwise, as in test_decode.py
    assert difference.float().mean() < 0.1
    assert difference.max() <= 2


def test_crops_are_distributed_as_in_timm():
    """The limit is exceeded by two samples of one distribution in 1 of 1,000 cases."""
    scale, ratio, count, (width, height) = (0.08, 1.0), (0.75, 1.33), 2000, (200, 90)
    train, image = NaFlexTrain(Decoder("pil"), SIZE, PATCH, scale=scale, ratio=ratio), Image.new("L", (width, height))
    random.seed(0)
    theirs = [RandomResizedCropToSequence.get_params(image, scale, ratio)[0] for _ in range(count)]
    rng = random.Random(0)
    ours = [train.box(width, height, rng) for _ in range(count)]  # left, top, width, height
    theirs, ours = np.array(theirs)[:, [1, 0, 3, 2]], np.array(ours)
    for measure in (
        lambda x, y, w, h: w * h,
        lambda x, y, w, h: w / h,
        lambda x, y, w, h: x / (width - w + 1e-9),
        lambda x, y, w, h: y / (height - h + 1e-9),
    ):
        assert ks_2samp(measure(*ours.T), measure(*theirs.T)).statistic < 1.95 * (2 / count) ** 0.5


def test_training_image_without_crop_and_flip_is_that_of_validation():
    pixels = photo(*WIDE)
    train = NaFlexTrain(Decoder("pil"), SIZE, PATCH, scale=(1, 1), ratio=(1, 1), hflip=0)
    assert torch.equal(train(pixels, random.Random(0)), NaFlexEval(Decoder("pil"), SIZE, PATCH)(pixels))
    mirrored = NaFlexTrain(Decoder("pil"), SIZE, PATCH, scale=(1, 1), ratio=(1, 1), hflip=1)
    patches, _ = valid(mirrored(pixels, random.Random(0)))
    assert not torch.equal(patches, valid(train(pixels, random.Random(0)))[0])


def test_rows_that_do_not_fit_into_a_byte_are_a_fault_of_the_image():
    with pytest.raises(BadImage, match="its sides of 2 and 3000 px are too different"):
        NaFlexEval(Decoder("pil"), 64, 2)(photo(3000, 2))


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"naflex": 5}, r"images of 16 × 16 px do not divide into patches of data\.naflex=5 px"),
        ({"naflex": 4, "augment": {"mixup": {"mixup_alpha": 0.8, "cutmix_alpha": 0, "prob": 1, "switch_prob": 0,
          "mode": "batch"}}}, r"data\.naflex has no mixup, cutmix or erasing"),
        ({"naflex": 4, "augment": {"erasing": {"probability": 0.5, "mode": "pixel"}}}, "no mixup, cutmix or erasing"),
        ({"naflex": 4, "resident": True}, r"data\.resident=true keeps images of one shape"),
        ({"naflex": 4, "eval_crops": 5}, "five crops are images of one shape"),
    ],
)  # fmt: skip
def test_what_needs_images_of_one_shape_is_refused(options, message):
    with pytest.raises(ValueError, match=message):
        ImageDataModule("fake", 16, 4, **options)
