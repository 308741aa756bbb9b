import warnings

import pytest
import torch
from lightning import LightningModule, Trainer

from fvit.data import ImageDataModule
from fvit.training import CollectPredictions, Predictions
from tests.data.pictures import jpeg

NUM_VAL = 11


class Scripted(LightningModule):
    """Predicts from the mean colour of an image."""

    def validation_step(self, batch, batch_idx):
        images, labels = batch
        return logits_of(images) if len(labels) else None


def logits_of(images):
    mean = images.double().mean(dim=(1, 2, 3))
    return torch.stack([mean, 0.3 - 2 * mean, mean.square()], dim=1)


@pytest.fixture
def data(tmp_path):
    """Validation images of three classes, some of them damaged."""

    def make(damaged=(), **options):
        for split, count in (("train", 3), ("val", NUM_VAL)):
            for index in range(count):
                folder = tmp_path / "data" / split / "abc"[index * 3 // count]
                folder.mkdir(parents=True, exist_ok=True)
                content = jpeg(24, 24, seed=index)
                broken = split == "val" and index in damaged
                (folder / f"{index:02}.jpg").write_bytes(content[:-200] if broken else content)
        options = {"batch_size": 1, "eval_batch_size": 4, **options}
        return ImageDataModule("folder", img_size=16, root=str(tmp_path / "data"), **options)

    return make


def collect(data, collected=None):
    collected = collected or CollectPredictions()
    quiet = dict(logger=False, enable_checkpointing=False, enable_progress_bar=False, enable_model_summary=False)
    trainer = Trainer(accelerator="cpu", callbacks=[collected], use_distributed_sampler=False, **quiet)
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", message=".*does not have many workers")
        trainer.validate(Scripted(), datamodule=data, verbose=False)
    return collected.predictions


def one_by_one(data, index):
    """Confidence, correctness and class of one image alone."""
    loaded = data.val_dataloader().dataset
    [draw] = [draw for draw in data.val_dataloader().sampler if draw.index == index]
    sample = loaded[draw]
    pixels = sample.pixels.permute(2, 0, 1)[None].float()
    mean, std = (255 * torch.tensor(data.hparams[name]).view(-1, 1, 1) for name in ("mean", "std"))
    probabilities = torch.exp(logits := logits_of((pixels - mean) / std)[0]) / torch.exp(logits).sum()
    return probabilities.max().item(), int(probabilities.argmax()) == sample.label, int(probabilities.argmax())


@pytest.mark.parametrize("options", [{}, {"eval_batch_size": 1}, {"num_workers": 1}], ids=str)
def test_each_image_is_predicted_once_in_order(data, options):
    found = collect(data(**options))
    assert found.indices.tolist() == list(range(NUM_VAL))
    expected = [one_by_one(data(), index) for index in range(NUM_VAL)]
    assert found.confidence.dtype == torch.float32
    assert found.confidence.tolist() == pytest.approx([confidence for confidence, _, _ in expected], rel=1e-5)
    assert found.right.tolist() == [right for _, right, _ in expected]
    assert found.classes.tolist() == [predicted for _, _, predicted in expected]
    assert 0 < found.right.sum() < NUM_VAL, "some of each, or the test would show nothing"


def test_unreadable_images_are_left_out_and_the_others_keep_their_indices(data):
    damaged = {1, 4, 5, 6, 7}  # the second batch has no image left
    found = collect(data(damaged))
    assert found.indices.tolist() == [index for index in range(NUM_VAL) if index not in damaged]
    whole = [one_by_one(data(damaged), index) for index in found.indices.tolist()]
    assert found.right.tolist() == [right for _, right, _ in whole]


def test_no_readable_image_is_an_error(data):
    with pytest.raises(ValueError, match="none of the validation images could be read"):
        collect(data(range(NUM_VAL)))


def test_only_the_newest_validation_is_kept(data):
    source, collected = data(), CollectPredictions()
    for _ in range(2):
        collect(source, collected)
    assert len(collected.predictions.indices) == NUM_VAL


def predictions_for(*indices):
    count = len(indices)
    return Predictions(
        torch.tensor(indices), torch.ones(count), torch.ones(count, dtype=torch.bool), torch.zeros(count)
    )


def test_predictions_for_the_same_images_pass():
    predictions_for(0, 1, 4).check_same_images(predictions_for(0, 1, 4))


@pytest.mark.parametrize(
    ("ours", "theirs", "counts"),
    [
        ([0, 1, 2], [0, 1], "1 only the first, 0"),
        ([0, 1], [0, 2], "1 only the first, 1"),
        ([0], [0, 1, 2], "0 .*, 2"),
    ],
)
def test_predictions_for_other_images_are_refused(ours, theirs, counts):
    with pytest.raises(ValueError, match=f"saw different images: {counts}"):
        predictions_for(*ours).check_same_images(predictions_for(*theirs))
