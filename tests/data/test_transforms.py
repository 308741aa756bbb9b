import random
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from lightning import seed_everything
from PIL import Image
from timm.data.auto_augment import RandAugment
from torchvision import transforms as T
from torchvision.transforms.functional import pil_to_tensor

from fvit.data import ImageDataModule
from fvit.data.transforms import BatchTransform, Transformed

MEAN, STD = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)
RAND_AUGMENT = "rand-m9-mstd0.5-inc1"
OPTIONS = dict(scale=[0.6, 1.0], ratio=[0.75, 1.3333], hflip=0.5, interpolation="bicubic", mean=MEAN)


def picture(width=40, height=30, mode="RGB", seed=0):
    noise = np.random.default_rng(seed).integers(0, 256, (height, width, 3), dtype=np.uint8)
    return Image.fromarray(noise).convert(mode)


def transformed(image, size=32, train=True, **options):
    return Transformed([(image, 0)], size, train=train, **options)


def batch(size=8, pixels=6, classes=5):
    generator = torch.Generator().manual_seed(0)
    images = torch.randint(0, 256, (size, 3, pixels, pixels), dtype=torch.uint8, generator=generator)
    return images, torch.arange(size) % classes


def batch_transform(mixup=None, erasing=None, classes=5, mean=MEAN, std=STD):
    return BatchTransform(classes, mean, std, mixup or {}, erasing or {})


def normalised(images, mean, std):
    mean, std = (torch.tensor(values, dtype=torch.float64).view(3, 1, 1) for values in (mean, std))
    return (images.double() / 255 - mean) / std


def data_module(config, **options):
    """As `fvit.train` builds it, on one rank of a stub trainer."""
    data = ImageDataModule(**{**config["data"], **options}, batch_size=16, seed=config["seed"])
    data.trainer = SimpleNamespace(
        world_size=1,
        global_rank=0,
        overfit_batches=0,
        training=True,
        lightning_module=SimpleNamespace(dtype=torch.float32),
    )
    return data


def epoch(data):
    return [data.on_after_batch_transfer(each, 0) for each in data.train_dataloader()]


# One image in the loader.


@pytest.mark.parametrize("train", [True, False])
@pytest.mark.parametrize("mode", ["1", "L", "LA", "P", "RGB", "RGBA", "CMYK"])
def test_images_travel_as_uint8(mode, train):
    image, label = transformed(picture(mode=mode), train=train, interpolation="bicubic")[0]
    assert (image.dtype, image.shape, label) == (torch.uint8, (3, 32, 32), 0)


@pytest.mark.parametrize("crop_pct", [0.5, 0.875, 1.0])
@pytest.mark.parametrize("interpolation", ["bilinear", "bicubic"])
@pytest.mark.parametrize("size", [(40, 30), (30, 40), (100, 20), (16, 16), (32, 32)])
def test_validation_resizes_and_crops_as_torchvision(size, interpolation, crop_pct):
    image = picture(*size)
    mode = T.InterpolationMode(interpolation)
    expected = T.Compose([T.Resize(int(32 / crop_pct), mode), T.CenterCrop(32)])(image)
    found, _ = transformed(image, train=False, interpolation=interpolation, crop_pct=crop_pct)[0]
    assert torch.equal(found, pil_to_tensor(expected))


def test_no_aug_is_resize_and_centre_crop():
    image = picture(50, 30)
    expected = T.Compose([T.Resize(32, T.InterpolationMode.BICUBIC), T.CenterCrop(32)])(image)
    found, _ = transformed(image, no_aug=True, interpolation="bicubic")[0]
    assert torch.equal(found, pil_to_tensor(expected))


@pytest.mark.parametrize("size", [(40, 40), (40, 32), (50, 20), (41, 40)])
def test_augment_none_is_resize_and_centre_crop(compose_config, size):
    options = compose_config("augment=none", "data=fake")["data"]["augment"]["transform"]
    image = picture(*size)
    expected = T.Compose([T.Resize(32, T.InterpolationMode.BICUBIC), T.CenterCrop(32)])(image)
    images = transformed(image, interpolation="bicubic", **options)
    random.seed(0)
    for _ in range(50):
        assert torch.equal(images[0][0], pil_to_tensor(expected))


def test_light_augmentation_changes_from_draw_to_draw():
    images = transformed(picture(), **OPTIONS, color_jitter=None)
    random.seed(0)
    assert len({images[0][0].numpy().tobytes() for _ in range(16)}) > 8


@pytest.mark.parametrize("name", [RAND_AUGMENT, "3a"])
def test_auto_augment_runs_and_follows_the_seed(name):
    images = Transformed(
        [(picture(seed=seed), seed) for seed in range(64)], 32, train=True, **OPTIONS, auto_augment=name
    )

    def draw(seed):
        seed_everything(seed, verbose=False)
        return torch.stack([images[index][0] for index in range(64)])

    first = draw(0)
    assert (first.dtype, first.shape) == (torch.uint8, (64, 3, 32, 32))
    assert torch.equal(draw(0), first)
    assert not torch.equal(draw(1), first)
    plain = Transformed(images.images, 32, train=True, **OPTIONS, color_jitter=None)
    seed_everything(0, verbose=False)
    assert not torch.equal(plain[0][0], first[0]), "auto_augment must do something"


def test_posterising_to_nothing_leaves_black():
    images = transformed(picture(), auto_augment=RAND_AUGMENT, **OPTIONS)
    [rand_augment] = [step for step in images.transform.transforms if isinstance(step, RandAugment)]
    [op] = [op for op in rand_augment.ops if op.name == "PosterizeIncreasing"]
    op.prob, op.magnitude_std = 1.0, 0.0
    levels = {}
    for op.magnitude in (0.0, 5.0, 10.0):
        levels[op.magnitude] = sorted(set(np.asarray(op(picture())).ravel().tolist()))
    assert levels == {0.0: list(range(0, 256, 16)), 5.0: [0, 64, 128, 192], 10.0: [0]}


@pytest.mark.parametrize("strength", [0.0, 9.0, 10.0])
def test_each_rand_augment_op_runs_at_each_strength(strength):
    """With mstd0.5 one magnitude in 44 is cut off at 10, where timm posterises to 0 bits."""
    images = transformed(picture(), auto_augment=RAND_AUGMENT, **OPTIONS)
    [rand_augment] = [step for step in images.transform.transforms if isinstance(step, RandAugment)]
    failed = []
    for op in rand_augment.ops:
        op.prob, op.magnitude, op.magnitude_std = 1.0, strength, 0.0
        try:
            assert op(picture()).size == picture().size
        except ValueError as error:
            failed.append(f"{op.name}: {error}")
    assert not failed


# One batch on the device.


@pytest.mark.parametrize(("mean", "std"), [(MEAN, STD), ((0.5, 0.5, 0.5), (0.5, 0.5, 0.5)), ((0, 0, 0), (1, 1, 1))])
@pytest.mark.parametrize("train", [True, False])
def test_normalisation_is_that_of_float64(mean, std, train):
    images = torch.arange(256, dtype=torch.uint8).view(1, 1, 16, 16).expand(2, 3, 16, 16)
    found, labels = batch_transform(mean=mean, std=std)(images.clone(), torch.tensor([1, 2]), train, torch.float32)
    assert found.dtype == torch.float32
    torch.testing.assert_close(found.double(), normalised(images, mean, std), rtol=0, atol=1e-6)
    assert labels.tolist() == [1, 2]


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float64])
def test_images_take_the_dtype_of_the_model(dtype):
    images, labels = batch()
    found, _ = batch_transform()(images.clone(), labels, True, dtype)
    assert found.dtype == dtype
    torch.testing.assert_close(found, batch_transform()(images, labels, True, torch.float32)[0].to(dtype))


def test_the_loader_s_batch_is_left_alone():
    images, labels = batch()
    before = images.clone()
    batch_transform(mixup={"mixup_alpha": 1.0})(images, labels, True, torch.float32)
    assert torch.equal(images, before)


@pytest.mark.parametrize("mode", ["pixel", "const", "rand"])
def test_erasing_changes_a_part_of_each_image(mode):
    seed_everything(0, verbose=False)
    images, labels = batch(pixels=24)
    plain, _ = batch_transform()(images, labels, True, torch.float32)
    erased, kept = batch_transform(erasing={"probability": 1.0, "mode": mode})(images, labels, True, torch.float32)
    share = (erased != plain).any(dim=1).float().mean(dim=(1, 2))
    # timm erases 2 % to a third of an image.
    assert ((share > 0) & (share < 0.4)).all()
    assert torch.equal(kept, labels)


@pytest.mark.parametrize(("probability", "train"), [(0.0, True), (1.0, False)])
def test_no_erasing(probability, train):
    images, labels = batch()
    plain, _ = batch_transform()(images, labels, train, torch.float32)
    erasing = {"probability": probability, "mode": "pixel"}
    found, _ = batch_transform(erasing=erasing)(images, labels, train, torch.float32)
    assert torch.equal(found, plain)


def test_erasing_half_of_the_images():
    seed_everything(0, verbose=False)
    images, labels = batch(size=400, pixels=8)
    plain, _ = batch_transform()(images, labels, True, torch.float32)
    found, _ = batch_transform(erasing={"probability": 0.5, "mode": "const"})(images, labels, True, torch.float32)
    assert 150 < (found != plain).flatten(1).any(dim=1).sum() < 250


@pytest.mark.parametrize("mode", ["batch", "pair", "elem"])
@pytest.mark.parametrize(
    "alphas", [dict(mixup_alpha=0.8), dict(cutmix_alpha=1.0), dict(mixup_alpha=0.8, cutmix_alpha=1.0)], ids=str
)
def test_mixing_gives_the_shares_of_the_two_images_as_labels(alphas, mode):
    """Image i is all black or all white, its partner, the mirror in the batch, the opposite: pixels tell the share."""
    size = 8
    labels = torch.arange(size)
    values = torch.tensor([0, 0, 0, 0, 255, 255, 255, 255], dtype=torch.uint8)
    images = values.view(size, 1, 1, 1).expand(size, 3, 20, 20)
    transform = batch_transform({**alphas, "mode": mode}, classes=size, mean=(0, 0, 0), std=(1, 1, 1))
    shares = []
    for seed in range(20):
        seed_everything(seed, verbose=False)
        mixed, targets = transform(images.clone(), labels, True, torch.float32)
        assert targets.shape == (size, size)
        torch.testing.assert_close(targets.sum(dim=1), torch.ones(size))
        white = mixed.mean(dim=(1, 2, 3))
        own = torch.where(values == 255, white, 1 - white)
        expected = torch.zeros(size, size)
        expected[labels, labels] = own
        expected[labels, labels.flip(0)] = 1 - own
        # Zero for all other classes: the loss smooths, and smoothing here as well would do it twice.
        torch.testing.assert_close(targets, expected, rtol=0, atol=1e-5)
        shares += own.tolist()
    assert min(shares) < 0.3
    assert max(shares) > 0.7


def test_mixing_two_images_of_one_class_gives_that_class():
    seed_everything(0, verbose=False)
    _, targets = batch_transform({"mixup_alpha": 0.8})(*batch(classes=1), True, torch.float32)
    torch.testing.assert_close(targets, torch.eye(5)[:1].expand(8, 5))


def test_validation_is_neither_mixed_nor_erased():
    images, labels = batch()
    augmented = batch_transform({"mixup_alpha": 0.8, "cutmix_alpha": 1.0}, {"probability": 1.0, "mode": "pixel"})
    found, kept = augmented(images, labels, False, torch.float32)
    assert torch.equal(found, batch_transform()(images, labels, False, torch.float32)[0])
    assert torch.equal(kept, labels)


# The groups of options, through the DataModule.


@pytest.mark.parametrize(
    ("augment", "mixed"), [("none", False), ("light", False), ("deit", True), ("deit3", True)], ids=lambda x: x
)
def test_each_augmentation_runs_an_epoch(compose_config, augment, mixed):
    seed_everything(0, verbose=False)
    data = data_module(compose_config(f"augment={augment}", "data=fake"), num_images=64)
    raw, _ = next(iter(data.train_dataloader()))
    assert (raw.dtype, raw.shape) == (torch.uint8, (16, 3, 32, 32))
    batches = epoch(data)
    assert len(batches) == 4
    for images, labels in batches:
        assert (images.dtype, images.shape) == (torch.float32, (16, 3, 32, 32))
        assert images.isfinite().all()
        assert labels.shape == ((16, 10) if mixed else (16,))


@pytest.mark.parametrize("augment", ["none", "light", "deit", "deit3"])
def test_validation_does_not_depend_on_the_augmentation(compose_config, augment):
    given = (
        "data.image_size=80",
        "data.crop_pct=0.5",
        "data.interpolation=nearest",
        "data.mean=[0.1,0.2,0.3]",
        "data.std=[0.4,0.5,0.6]",
    )
    data = data_module(compose_config(f"augment={augment}", "data=fake", *given), num_images=32)
    data.trainer.training = False
    [(images, labels)] = [data.on_after_batch_transfer(each, 0) for each in data.val_dataloader()]
    for index in range(8):
        image, label = data.source.val[index]
        plain = T.Compose([T.Resize(64, T.InterpolationMode.NEAREST), T.CenterCrop(32)])(image)
        expected = normalised(pil_to_tensor(plain), (0.1, 0.2, 0.3), (0.4, 0.5, 0.6))
        torch.testing.assert_close(images[index].double(), expected, rtol=0, atol=1e-6)
        assert labels[index] == label


@pytest.mark.parametrize(
    ("augment", "num_workers"), [("light", 0), ("light", 2), ("deit", 0), ("deit", 2), ("deit3", 0)]
)
def test_seeded_runs_draw_the_same_batches(compose_config, augment, num_workers):
    config = compose_config(f"augment={augment}", "data=fake")

    def draw(seed):
        seed_everything(seed, workers=True, verbose=False)
        return epoch(data_module(config, num_images=48, num_workers=num_workers))

    first, second, other = draw(0), draw(0), draw(1)
    assert len(first) == 3
    for (images, labels), (images_again, labels_again) in zip(first, second, strict=True):
        assert torch.equal(images, images_again)
        assert torch.equal(labels, labels_again)
    assert not torch.equal(first[0][0], other[0][0])


def test_digits_are_not_mirrored(compose_config):
    assert compose_config("augment=light", "data=digits")["data"]["augment"]["transform"]["hflip"] == 0
    assert compose_config("augment=light", "data=fake")["data"]["augment"]["transform"]["hflip"] == 0.5


@pytest.mark.parametrize("interpolation", ["nearest", "bilinear", "bicubic", "lanczos"])
def test_each_interpolation_that_a_config_may_name(compose_config, interpolation):
    data = data_module(compose_config("data=fake", f"data.interpolation={interpolation}"), num_images=16)
    for loader in (data.train_dataloader(), data.val_dataloader()):
        assert next(iter(loader))[0].dtype == torch.uint8
