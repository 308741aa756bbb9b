"""Images that stay on the device: the same order, draws and pixels as those that the loader prepares."""

import numpy as np
import pytest
import torch

from fvit.data import ImageDataModule
from fvit.data.formats.decode import choose
from fvit.data.images import DataError, Pixels
from fvit.data.resident import ResidentDataset, crop_and_resize
from fvit.data.transforms.image import EvalTransform, resize
from tests.callbacks.test_resume_state import KillAt, Killed
from tests.training.fitting import fit

LIGHT = {"no_aug": False, "scale": (0.2, 1.0), "ratio": (0.75, 1.33), "hflip": 0.5}
MIXED = {
    "transform": LIGHT,
    "mixup": dict(mixup_alpha=0.8, cutmix_alpha=1.0, prob=1.0, switch_prob=0.5, mode="elem"),
    "erasing": dict(probability=0.5, mode="pixel"),
}


def module(resident, name="digits", **options):
    return ImageDataModule(name, 32, 16, resident=resident, interpolation="bicubic", **options)


@pytest.mark.parametrize("interpolation", ["bilinear", "bicubic"])
@pytest.mark.parametrize("size", [(8, 8), (32, 32), (47, 47), (20, 33)])
def test_crops_are_those_of_the_loader(size, interpolation):
    """Enlarged and reduced, at most one of 255 levels apart, and mostly equal."""
    rng = np.random.default_rng(0)
    images = torch.from_numpy(rng.integers(256, size=(40, 30, 37, 3), dtype=np.uint8))
    width, height = rng.integers(1, 38, 40), rng.integers(1, 31, 40)
    crops = np.stack([rng.integers(38 - width), rng.integers(31 - height), width, height, rng.integers(2, size=40)], 1)
    found = crop_and_resize(images, torch.from_numpy(crops), *size, interpolation)
    for pixels, (left, top, w, h, flip), ours in zip(images.numpy(), crops.tolist(), found, strict=True):
        expected = resize(pixels[top : top + h, left : left + w], *size, interpolation)
        difference = (ours.int() - (expected.flip(1) if flip else expected).int()).abs()
        assert difference.max() <= 1
        assert difference.float().mean() < 0.02


@pytest.mark.parametrize("augment", [{}, {"transform": LIGHT}, MIXED])
def test_batches_are_those_of_the_loader(augment):
    loader, resident = (iter(module(on, augment=augment).train_dataloader()) for on in (False, True))
    data = module(True, augment=augment)
    data.train_dataloader()
    for _ in range(4):
        theirs, ours = next(loader), next(resident)
        for name in ("labels", "epochs", "positions"):
            assert torch.equal(getattr(ours, name), getattr(theirs, name))
        for drawn, expected in zip(ours.draws, theirs.draws, strict=True):
            assert (drawn is None) == (expected is None)
            assert drawn is None or all(map(torch.equal, drawn, expected))
        pixels = data.resident["train"].take(ours.images, (data.hparams.img_size,) * 2)
        assert pixels.dtype == torch.uint8
        assert (pixels.int() - theirs.images.int()).abs().max() <= 1


def test_validation_images_are_equal():
    data = module(True, crop_pct=0.9)
    expected = torch.cat([batch.images for batch in module(False, crop_pct=0.9).val_dataloader()])
    found = torch.cat([data.resident["val"].take(batch.images, (16, 16)) for batch in data.val_dataloader()])
    assert torch.equal(found, expected)


@pytest.mark.slow
def test_a_run_learns_what_it_learns_with_the_loader(compose_config):
    short = ("logger=none", "callbacks=none", "trainer.max_epochs=2", "+trainer.limit_train_batches=8", "seed=3")
    loader, resident = (fit(compose_config(*short, f"data.resident={on}")) for on in ("false", "true"))
    assert resident.losses == pytest.approx(loader.losses, rel=1e-2)
    assert resident.metrics["val/loss"] == pytest.approx(loader.metrics["val/loss"], rel=1e-2)


@pytest.mark.slow
def test_a_killed_run_goes_on_with_the_same_losses(compose_config, tmp_path):
    short = ("logger=none", "data.resident=true", "trainer.max_epochs=2", "+trainer.limit_train_batches=5")

    def run(name, probe=None):
        every = "callbacks.last.every_n_train_steps=3"
        return fit(compose_config(*short, every, f"output_dir={tmp_path / name}", "ckpt_path=last"), probe)

    whole = run("whole")
    with pytest.raises(Killed):
        run("killed", KillAt("on_train_batch_start", 5))
    assert run("killed").losses == whole.losses[3:]


def test_what_it_cannot_do_is_refused():
    with pytest.raises(ValueError, match="no color_jitter or auto_augment; use augment=light or none"):
        module(True, augment={"transform": {**LIGHT, "auto_augment": "rand-m9"}}).train_dataloader()
    with pytest.raises(ValueError, match=r"interpolation=lanczos cannot be used .* use bilinear or bicubic"):
        ImageDataModule(
            "digits", 32, 16, resident=True, interpolation="lanczos", augment={"transform": LIGHT}
        ).train_dataloader()
    pixels = [np.zeros((4, 4, 3), np.uint8), np.zeros((4, 5, 3), np.uint8)]
    images = Pixels(pixels, [0, 1])
    with pytest.raises(DataError, match=r"image 1 has 5×4 px and the first image 4×4; .* use data.resident=false"):
        ResidentDataset(images, choose("pil"), lambda data: torch.from_numpy(data), seed=0)
    assert EvalTransform(choose("pil"), 4)(pixels[0]).shape == (4, 4, 3)
