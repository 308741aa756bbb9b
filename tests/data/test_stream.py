import pytest
import torch

from fvit.data import ImageDataModule
from fvit.data.formats.find import find_images
from fvit.data.stream import stream
from tests.data.pictures import jpeg

CPU = torch.device("cpu")


@pytest.fixture
def photos(tmp_path):
    """Seven images, of which the third is cut, in the tree of a data set."""
    for split in ("train", "val"):
        (tmp_path / split / "a").mkdir(parents=True)
        for index in range(7):
            content = jpeg(50 + index, 40, seed=index)
            (tmp_path / split / "a" / f"{index}.jpg").write_bytes(content[:-300] if index == 2 else content)
    return tmp_path


@pytest.mark.parametrize("num_workers", [0, 2])
def test_images_are_those_of_validation_and_broken_ones_are_told_of(photos, num_workers):
    options = dict(img_size=32, crop_pct=0.9, interpolation="bilinear", mean=(0.4, 0.5, 0.6), std=(0.2, 0.3, 0.4))
    data = ImageDataModule("folder", batch_size=3, root=photos, **options)
    expected = [batch.images for batch in data.val_dataloader()]
    found = list(stream(find_images(photos / "val"), data.hparams, 3, num_workers, CPU))
    assert [len(seen.files) for seen in found] == [2, 3, 1]
    assert [file[-5:] for seen in found for file in seen.files] == [f"{i}.jpg" for i in (0, 1, 3, 4, 5, 6)]
    for seen, pixels in zip(found, expected, strict=True):
        assert torch.equal(seen.pixels, pixels)
        mean, std = (torch.tensor(options[key]).view(1, 1, 1, 3) for key in ("mean", "std"))
        normalised = ((pixels / 255 - mean) / std).permute(0, 3, 1, 2)
        torch.testing.assert_close(seen.images, normalised, rtol=1e-5, atol=1e-6)
    [fault] = [fault for seen in found for fault in seen.faults]
    assert fault.where == str(photos / "val" / "a" / "2.jpg")
    assert fault.reason


def test_a_batch_of_broken_images_is_one_without_images(tmp_path):
    (tmp_path / "a.jpg").write_bytes(b"")
    trained = dict(img_size=8, crop_pct=1, interpolation="bicubic", mean=(0,), std=(1,))
    [seen] = stream(find_images(tmp_path), trained, 4, 0, CPU)
    assert seen.files == []
    assert len(seen.faults) == 1
