import logging
from types import SimpleNamespace

import pytest
import torch
from lightning import LightningModule, Trainer
from lightning.pytorch.loggers import CSVLogger
from torch import nn

from fvit.callbacks.skipped_images import SkippedImages
from fvit.data import ImageDataModule
from fvit.data.faults import Fault, FaultLog
from fvit.data.images import DataError
from tests.data.pictures import jpeg

WHOLE, TRUNCATED = jpeg(24, 24), jpeg(24, 24)[:-200]


class Model(LightningModule):
    """One weight; counts the images that it sees."""

    def __init__(self):
        super().__init__()
        self.weight = nn.Parameter(torch.zeros(()))
        self.trained, self.validated = 0, 0

    def training_step(self, batch, batch_idx):
        self.trained += len(batch[1])
        return self.weight * batch[0].sum()

    def validation_step(self, batch, batch_idx):
        self.validated += len(batch[1])

    def configure_optimizers(self):
        return torch.optim.SGD(self.parameters(), lr=0.1)


def tree(root, num_train, num_val, damaged):
    """An ImageFolder tree; damaged images are named like train/3."""
    for split, count in (("train", num_train), ("val", num_val)):
        (root / split / "a").mkdir(parents=True)
        for i in range(count):
            data = TRUNCATED if f"{split}/{i}" in damaged else WHOLE
            (root / split / "a" / f"{i:03}.jpg").write_bytes(data)
    return root


@pytest.fixture
def run(tmp_path, caplog):
    """Fits two epochs, or only validates; returns the trainer and the model."""
    caplog.set_level(logging.INFO, logger="fvit")

    def make(damaged, num_train=12, num_val=4, validate_only=False, **options):
        root = tree(tmp_path / "data", num_train, num_val, damaged)
        data = ImageDataModule("folder", img_size=16, batch_size=4, root=str(root), **options)
        quiet = dict(enable_checkpointing=False, enable_progress_bar=False, enable_model_summary=False)
        trainer = Trainer(
            accelerator="cpu",
            max_epochs=2,
            num_sanity_val_steps=0,
            use_distributed_sampler=False,
            logger=CSVLogger(tmp_path / "log"),
            log_every_n_steps=1,
            callbacks=[SkippedImages()],
            **quiet,
        )
        model = Model()
        (trainer.validate if validate_only else trainer.fit)(model, datamodule=data)
        return trainer, model

    return make


def messages(caplog):
    return [record.getMessage() for record in caplog.records if record.name == "fvit.callbacks.skipped_images"]


def test_nothing_is_reported_without_faults(run, caplog):
    trainer, model = run(damaged=())
    assert messages(caplog) == []
    assert "data/skipped" not in trainer.callback_metrics
    assert (model.trained, model.validated) == (24, 8)


@pytest.mark.parametrize("num_workers", [0, 1])
def test_epoch_reports_how_many_which_and_why(run, caplog, num_workers):
    trainer, model = run({"train/3", "train/7", "val/1"}, num_workers=num_workers)
    first, second = messages(caplog)
    assert first.startswith("epoch 1: 3 images could not be read and were skipped\n")
    assert second.startswith("epoch 2: 3 images could not be read and were skipped\n")
    for text in (first, second):
        lines = text.splitlines()[1:]
        assert len(lines) == 3
        for name in ("train/a/003.jpg", "train/a/007.jpg", "val/a/001.jpg"):
            [line] = [line for line in lines if name in line]
            assert "Premature end" in line or "truncated" in line
    assert trainer.callback_metrics["data/skipped"] == 3
    assert model.trained == 24, "another image took the place of each"
    assert model.validated == 6, "in validation they are left out"


def test_validation_alone_is_reported(run, caplog):
    run({"val/1", "train/3"}, validate_only=True)
    [text] = messages(caplog)
    assert text.startswith("validation: 1 images could not be read and were skipped\n")
    assert "val/a/001.jpg" in text


def test_long_list_is_shortened_and_the_count_complete(run, caplog):
    run({f"val/{i}" for i in range(30)}, num_val=33, skip_limit=50)
    text = messages(caplog)[0]
    assert text.startswith("epoch 1: 30 images")
    assert len(text.splitlines()) == 22
    assert text.endswith("  and 10 more")


@pytest.mark.parametrize("num_workers", [0, 1])
def test_run_ends_above_the_limit_and_names_the_file(run, num_workers):
    with pytest.raises(DataError) as caught:
        run({f"train/{i}" for i in range(0, 12, 2)}, skip_limit=2, num_workers=num_workers)
    reason = str(caught.value)
    assert "train/a/0" in reason
    assert "3 images of this epoch could not be used" in reason
    assert "data.skip_limit=2" in reason


def test_neighbours_count_once(run, caplog):
    trainer, _ = run({f"train/{i}" for i in range(3, 8)}, skip_limit=5)
    assert messages(caplog)[0].startswith("epoch 1: 5 images")
    assert trainer.callback_metrics["data/skipped"] == 5


def test_image_that_two_ranks_tried_counts_once(monkeypatch, caplog):
    trainer = SimpleNamespace(datamodule=SimpleNamespace(faults=FaultLog(5)), world_size=2, is_global_zero=True)
    trainer.datamodule.faults.note([Fault("a.jpg", "empty")])
    ranks = [[Fault("a.jpg", "empty")], [Fault("a.jpg", "empty"), Fault("b.jpg", "empty")]]
    monkeypatch.setattr("torch.distributed.all_gather_object", lambda found, own: found.__setitem__(slice(None), ranks))
    assert SkippedImages()._report(trainer, "epoch 1") == 2


def test_run_continues_at_the_limit(run, caplog):
    _, model = run({"train/3", "train/7"}, skip_limit=2)
    assert len(messages(caplog)) == 2
    assert model.trained == 24


def test_run_ends_when_every_image_is_damaged(run):
    with pytest.raises(DataError, match=r"train/a/0\d\d\.jpg: .*none of the 12 training images can be read"):
        run({f"train/{i}" for i in range(12)})


def test_validation_batch_may_be_empty(run, caplog):
    trainer, model = run({"val/0", "val/1", "val/2", "val/3"}, num_val=6)
    assert model.validated == 4
    assert trainer.callback_metrics["data/skipped"] == 4
