import random

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image
from scipy.stats import ks_2samp
from timm.data.auto_augment import RandAugment
from torchvision.transforms import RandomResizedCrop

from fvit.data import ImageDataModule
from fvit.data.formats.decode import Decoder
from fvit.data.seeding import generator
from fvit.data.transforms.image import EvalTransform, TrainTransform, random_box, resize
from tests.data.pictures import photo

quick = settings(deadline=None, derandomize=True, database=None, max_examples=100)
SCALE, RATIO = (0.08, 1.0), (3 / 4, 4 / 3)
SIDES = st.integers(1, 3000)
RAND_AUGMENT = "rand-m9-mstd0.5-inc1"


def train_transform(size=32, **options):
    return TrainTransform(Decoder("pil"), size, **options)


def rand_augment_ops():
    [step] = train_transform(auto_augment=RAND_AUGMENT).augmentations.transforms
    assert isinstance(step, RandAugment)
    return step.ops


# Random crop


@pytest.mark.parametrize(
    ("size", "scale", "ratio"),
    [((500, 375), SCALE, RATIO), ((90, 300), SCALE, RATIO), ((32, 32), (0.6, 1.0), (0.5, 3.0))],
    ids=str,
)
def test_crops_are_distributed_as_in_torchvision(size, scale, ratio):
    """The limit is exceeded by two samples of one distribution in 1 of 1,000 cases."""
    count = 5000
    torch.manual_seed(0)
    rng, image = random.Random(0), Image.new("L", size)
    theirs = np.array([RandomResizedCrop.get_params(image, scale, ratio) for _ in range(count)])[:, [1, 0, 3, 2]]
    ours = np.array([random_box(*size, scale, ratio, rng) for _ in range(count)])
    for measure in (
        lambda x, y, w, h: w * h,
        lambda x, y, w, h: w / h,
        lambda x, y, w, h: x,
        lambda x, y, w, h: y,
        lambda x, y, w, h: x / (size[0] - w + 1e-9),
        lambda x, y, w, h: y / (size[1] - h + 1e-9),
        lambda x, y, w, h: x + w,
        lambda x, y, w, h: y + h,
    ):
        assert ks_2samp(measure(*ours.T), measure(*theirs.T)).statistic < 1.95 * (2 / count) ** 0.5


@quick
@given(
    width=SIDES,
    height=SIDES,
    scale=st.tuples(st.floats(0.001, 1), st.floats(0.001, 1)).map(sorted),
    ratio=st.tuples(st.floats(0.1, 10), st.floats(0.1, 10)).map(sorted),
    seed=st.integers(0, 10**6),
)
def test_crop_is_within_the_image(width, height, scale, ratio, seed):
    x, y, box_width, box_height = random_box(width, height, scale, ratio, random.Random(seed))
    assert 0 <= x <= x + box_width <= width
    assert 0 <= y <= y + box_height <= height
    # Extreme ratios may leave nothing of a side of a few pixels.
    if min(width, height) >= 10 or (ratio[0] > 0.5 and ratio[1] < 2):
        assert box_width > 0
        assert box_height > 0


@quick
@given(width=SIDES, height=SIDES, ratio=st.tuples(st.floats(0.6, 1), st.floats(1, 3)))
def test_central_crop_matches_torchvision(width, height, ratio):
    too_large = (2.0, 3.0)
    top, left, box_height, box_width = RandomResizedCrop.get_params(Image.new("1", (width, height)), too_large, ratio)
    assert random_box(width, height, too_large, ratio, random.Random(0)) == (left, top, box_width, box_height)


def test_half_of_the_images_are_flipped():
    ramp = np.tile(np.arange(32, dtype=np.uint8), (32, 1))

    def flipped(images, **options):
        flip = train_transform(scale=(1, 1), ratio=(1, 1), **options)
        return sum(bool(flip(ramp, random.Random(seed))[0, 0, 0]) for seed in range(images))

    assert 450 < flipped(1000) < 550
    assert (flipped(20, hflip=0.0), flipped(20, hflip=1.0)) == (0, 20)


def test_corner_of_the_central_crop_is_rounded():
    """As in torchvision: half of the three rows too many is 2."""
    rows = np.tile(np.arange(35, dtype=np.uint8)[:, None], (1, 32))
    assert EvalTransform(Decoder("pil"), 32, crop_pct=1.0)(rows)[0, 0, 0] == 2


# Resizing


SHAPES = [
    ((80, 60), [(32, 32), (120, 100), (79, 61), (80, 60), (7, 300), (300, 7), (1, 1), (80, 20), (20, 60)]),
    ((200, 230), [(224, 224), (199, 225), (100, 20)]),
    ((230, 200), [(224, 224), (240, 210), (20, 100)]),
    ((60, 300), [(32, 32), (56, 290), (58, 296), (58, 295)]),
]


@pytest.mark.parametrize(("size", "target"), [(size, target) for size, targets in SHAPES for target in targets])
@pytest.mark.parametrize("interpolation", ["nearest", "bilinear", "bicubic", "lanczos"])
def test_resize_matches_pil(interpolation, size, target):
    """Also where Pillow resamples rows before columns."""
    image, (width, height) = Image.fromarray(photo(*size)), target
    expected = image.resize(target, Image.Resampling[interpolation.upper()])
    found = resize(np.asarray(image), height, width, interpolation)
    assert (found.dtype, found.shape) == (torch.uint8, (height, width, 3))
    difference = np.abs(found.numpy().astype(int) - np.asarray(expected))
    if interpolation in ("bilinear", "bicubic"):  # torch's weights have fewer bits
        assert difference.mean() < 0.02
        assert difference.max() <= 2
    else:
        assert not difference.any()


def test_input_pixels_are_unchanged():
    pixels = photo()
    pixels.setflags(write=False)
    before = pixels.copy()
    for size in (60, 32):
        for use in (train_transform(size, auto_augment=RAND_AUGMENT), EvalTransform(Decoder("pil"), size, 1.0)):
            use(pixels, random.Random(0)).fill_(7)
    assert np.array_equal(pixels, before)


# Augmentations


@pytest.mark.parametrize("options", [dict(auto_augment=RAND_AUGMENT), dict(auto_augment="3a"), dict(color_jitter=0.3)])
def test_augmentations_follow_the_generator(options):
    augmented, plain = train_transform(**options), train_transform()

    def draw(transform, run):
        return torch.stack([transform(photo(seed=i), generator(run, "image", 0, i)) for i in range(40)])

    first = draw(augmented, 0)
    assert (first.dtype, first.shape) == (torch.uint8, (40, 32, 32, 3))
    assert torch.equal(draw(augmented, 0), first)
    assert not torch.equal(draw(augmented, 1), first)
    changed = (draw(plain, 0) != first).flatten(1).any(dim=1)
    assert changed.sum() > 20, "the crops are the same, but augmented"


def test_posterize_to_zero_bits_gives_black():
    [op] = [op for op in rand_augment_ops() if op.name == "PosterizeIncreasing"]
    op.prob, op.magnitude_std = 1.0, 0.0
    levels = {}
    for op.magnitude in (0.0, 5.0, 10.0):
        levels[op.magnitude] = set(np.asarray(op(Image.fromarray(photo()))).ravel().tolist())
    assert levels[0.0] <= set(range(0, 256, 16))
    assert levels[5.0] <= {0, 64, 128, 192}
    assert levels[10.0] == {0}


@pytest.mark.parametrize("magnitude", [0.0, 10.0])
def test_each_operation_runs_at_each_magnitude(magnitude):
    """With mstd0.5, one magnitude in 44 is clipped at 10, where timm posterizes to 0 bits."""
    failed = []
    for op in rand_augment_ops():
        op.prob, op.magnitude, op.magnitude_std = 1.0, magnitude, 0.0
        try:
            assert op(Image.fromarray(photo())).size == (80, 60)
        except ValueError as error:
            failed.append(f"{op.name}: {error}")
    assert not failed


# conf/augment


def data_module(config, **options):
    """As in `fvit.train`, on one rank."""
    return ImageDataModule(**{**config["data"], **options}, batch_size=16, seed=config["seed"])


def augmented(data, train=True):
    loader = data.train_dataloader() if train else data.val_dataloader()
    return [data.batch_transform(batch, train, torch.float32) for batch in loader]


@pytest.mark.parametrize(("augment", "mixed"), [("none", False), ("light", False), ("deit", True), ("deit3", True)])
def test_each_augmentation_runs_an_epoch(compose_config, augment, mixed):
    data = data_module(compose_config(f"augment={augment}", "data=fake"), num_images=64)
    raw = next(iter(data.train_dataloader())).images
    assert (raw.dtype, raw.shape) == (torch.uint8, (16, 32, 32, 3))
    batches = augmented(data)
    assert len(batches) == 4
    for images, labels in batches:
        assert (images.dtype, images.shape) == (torch.float32, (16, 3, 32, 32))
        assert images.isfinite().all()
        assert labels.shape == ((16, 10) if mixed else (16,))


@pytest.mark.parametrize("augment", ["none", "deit"])
def test_validation_does_not_depend_on_the_augmentation(compose_config, augment):
    given = ("data.image_size=80", "data.crop_pct=0.5", "data.interpolation=nearest", "data.mean=[0.1,0.2,0.3]")
    data = data_module(compose_config(f"augment={augment}", "data=fake", *given), num_images=32)
    [(images, labels)] = augmented(data, train=False)
    for index in range(8):
        image = Image.fromarray(data.source.val.read(index)).resize((64, 64), Image.Resampling.NEAREST)
        expected = torch.from_numpy(np.asarray(image)[16:48, 16:48].copy()).permute(2, 0, 1).double() / 255
        expected = (expected - torch.tensor([0.1, 0.2, 0.3]).view(3, 1, 1)) / torch.tensor(data.hparams.std).view(
            3, 1, 1
        )
        torch.testing.assert_close(images[index].double(), expected, rtol=0, atol=2e-6)
        assert labels[index] == data.source.val.labels[index]


@pytest.mark.parametrize("size", [(40, 40), (50, 20), (41, 40)])
def test_augment_none_trains_on_the_pixels_of_evaluation(compose_config, size):
    options = compose_config("augment=none", "data=fake")["data"]["augment"]["transform"]
    data = ImageDataModule("fake", img_size=32, batch_size=4, augment={"transform": options})
    found = data.train_dataloader().dataset.transform(photo(*size), random.Random(0))
    assert torch.equal(found, EvalTransform(Decoder("pil"), 32, 1.0)(photo(*size)))


@pytest.mark.parametrize(
    "policy",
    ["rnd-m9", "rand-m9-mstd0.5-inc", "rand-x9", "rand-m9.5", "rand-m9-tnone", "randm9", "augmix-q3", "v1", "3a-m9"],
)
def test_unknown_policy_is_refused(policy):
    with pytest.raises(
        ValueError, match=rf"auto_augment={policy} is not a policy of timm, such as rand-m9-mstd0\.5-inc1"
    ):
        train_transform(auto_augment=policy)


@pytest.mark.parametrize(
    "policy",
    [
        "rand",
        "rand-m9-n3-mstd101-mmax12-p0.3",
        "rand-tweights-inc0",
        "augmix-m5-w4-d2-b1",
        "originalr-mstd1",
        "v0",
        "3a",
    ],
)
def test_policies_of_timm(policy):
    assert train_transform(auto_augment=policy).augmentations
