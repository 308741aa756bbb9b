import json
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from fvit.models.overlay import sheet
from fvit.training import CollectPredictions
from tests.loggers.wandb_runs import runs
from tests.training.fitting import DIGITS, Probe, fit

RUN = (*DIGITS, "logger=wandb", "optimizer.lr=5e-3")


class Collect(Probe):
    """Also keeps the predictions of the last validation."""

    def setup(self, trainer, module, stage):
        super().setup(trainer, module, stage)
        self.collector = CollectPredictions()
        for hook in ("on_validation_start", "on_validation_batch_end", "on_validation_end"):
            setattr(self, hook, getattr(self.collector, hook))


@pytest.mark.slow
def table(run, name):
    """The newest table with that name, and the local paths of its files."""
    artifacts = [{file["path"]: file["local_path"] for file in one["manifest"]["contents"]} for one in run.artifacts]
    [*_, files] = [one for one in artifacts if f"{name}.table.json" in one]
    content = json.loads(Path(files[f"{name}.table.json"]).read_text())
    return [dict(zip(content["columns"], row, strict=True)) for row in content["data"]], files


@pytest.mark.slow
def test_media_show_the_predictions_of_the_model(compose_config, tmp_path, monkeypatch):
    written = []

    def record(image, blocks, *lines):
        written.append(lines)
        return sheet(image, blocks, *lines)

    monkeypatch.setattr("fvit.loggers.wandb_media.sheet", record)
    config = compose_config(*RUN, f"logger.wandb.save_dir={tmp_path}", "logger.wandb.media=2", "trainer.max_epochs=4")
    probe = fit(config, Collect())
    [run] = runs(tmp_path / "wandb")
    predictions, source = probe.collector.predictions, probe.data.source
    steps_per_epoch = len(source.train) // 64
    steps = [2 * steps_per_epoch - 1, 4 * steps_per_epoch - 1]
    assert [row["trainer/global_step"] for row in run.rows if "val/predictions._type" in row] == steps

    rows, files = table(run, "val/predictions")
    labels = torch.as_tensor(source.val.labels)
    for row in rows:
        index = int(row["file"].removeprefix("image "))
        assert row["label"] == source.classes[labels[index]]
        assert row["prediction"] == source.classes[predictions.classes[index]]
        assert row["confidence"] == pytest.approx(predictions.confidence[index].item(), rel=1e-5)
        assert (row["kind"] == "right") == (row["label"] == row["prediction"])
        with Image.open(files[row["image"]["path"]]) as image:
            shown = np.asarray(image.convert("L").resize((8, 8), Image.Resampling.BOX), dtype=float)
        assert abs(shown - source.val.read(index)).mean() < 16, "this digit, blurred"
    sampled = [row for row in rows if row["kind"] != "surest mistake"]
    mistakes = [row["confidence"] for row in rows if row["kind"] == "surest mistake"]
    assert len(sampled) == 32
    assert mistakes == pytest.approx(predictions.confidence[~predictions.right].sort(descending=True)[0][:16].tolist())

    counts, _ = table(run, "val/confusion_table")
    assert sum(row["nPredictions"] for row in counts) == len(source.val)
    right = sum(row["nPredictions"] for row in counts if row["Actual"] == row["Predicted"])
    assert right / len(source.val) == pytest.approx(probe.metrics["val/acc1"])

    indices = torch.linspace(0, len(labels) - 1, 4).round().long().tolist()
    assert written[-4:] == [
        (
            f"key, class {source.classes[labels[index]]}",
            f"predicted: {source.classes[predictions.classes[index]]}, {100 * predictions.confidence[index]:.1f} %",
        )
        for index in indices
    ]
    for name in ("query", "key"):
        over_time = [row for row in run.rows if f"attention/{name}.count" in row]
        assert [row["trainer/global_step"] for row in over_time] == steps
        assert over_time[0][f"attention/{name}.captions"] == over_time[1][f"attention/{name}.captions"], "same images"
        drawn = [[run.files / file for file in row[f"attention/{name}.filenames"]] for row in over_time]
        assert [len(files) for files in drawn] == [4, 4]
        assert [first.read_bytes() != last.read_bytes() for first, last in zip(*drawn, strict=True)] == [True] * 4


@pytest.mark.slow
def test_maps_are_drawn_with_averaged_weights(compose_config, tmp_path, monkeypatch):
    """And a model without attention maps has the other media."""
    drawn = []

    def maps(model, images):
        drawn.append({name: weight.clone() for name, weight in model.state_dict().items()})
        raise ValueError("no attention")

    monkeypatch.setattr("fvit.loggers.wandb_media.attention_maps", maps)
    here = f"logger.wandb.save_dir={tmp_path}"
    fit(compose_config(*RUN, here, "logger.wandb.media=1", "callbacks=[default,ema]", "callbacks.ema.decay=0.9"))
    saved = torch.load(tmp_path / "run" / "checkpoints" / "last.ckpt", weights_only=True)
    [weights] = drawn
    for name, weight in weights.items():
        assert torch.equal(weight, saved["state_dict"][f"model.{name}"]), name
        raw = saved["current_model_state"][f"model.{name}"]
        assert not weight.is_floating_point() or not torch.equal(weight, raw), name
    [run] = runs(tmp_path / "wandb")
    assert table(run, "val/predictions")[0]
    assert not [name for name in run.summed["summary"] if name.startswith("attention/")]


@pytest.mark.slow
def test_media_can_be_switched_off(compose_config, tmp_path):
    fit(compose_config(*RUN, f"logger.wandb.save_dir={tmp_path}", "logger.wandb.media=0"))
    [run] = runs(tmp_path / "wandb")
    assert not (run.files / "media").exists()
