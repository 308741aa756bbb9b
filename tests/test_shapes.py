"""Images of another height than width through every command."""

import csv
import json

import pytest
from PIL import Image

from .tasks import call

pytestmark = [
    pytest.mark.slow,
]

MODEL = ("model.embed_dim=24", "model.depth=2", "model.num_heads=3")


@pytest.fixture(scope="module", params=["additive", "aft_full", "window", "softmax"])
def run(request, tmp_path_factory):
    """A directory with the run `logs` of a mechanism, and a picture."""
    place = tmp_path_factory.mktemp(request.param)
    Image.effect_mandelbrot((90, 70), (-2, -1, 1, 1), 20).convert("RGB").save(place / "picture.png")
    short = ("trainer.max_epochs=1", "scheduler.warmup_epochs=0", "+trainer.limit_train_batches=2", "logger=none")
    given = (*MODEL, *short, f"attention={request.param}", "data.img_size=[48,32]", "hydra.run.dir=logs")
    assert call(place, "train", *given, "augment=deit", "data.augment.num_repeats=1") == 0
    return place


def test_evaluation_repeats_the_accuracy(run, capfd):
    assert call(run, "eval", "ckpt_path=logs", "logger=none") == 0
    [now, saved] = next(line.split()[1:3] for line in capfd.readouterr().out.splitlines() if "val/acc1" in line)
    assert float(now) == pytest.approx(float(saved), abs=1e-6)


def test_prediction_draws_maps_of_the_same_shape(run):
    assert call(run, "predict", "ckpt_path=logs", "images=picture.png", "maps=true", "output_dir=maps") == 0
    assert list((run / "maps").rglob("picture.png.*.png"))


@pytest.mark.parametrize("form", ["safetensors", "torch_export"])
def test_export_takes_the_same_shape(run, form):
    assert call(run, "export", "ckpt_path=logs", f"format={form}", f"out={form}") == 0
    assert "[B, 3, 48, 32]" in (run / form / "README.md").read_text()
    if form == "safetensors":
        config = json.loads((run / form / "config.json").read_text())
        assert config["pretrained_cfg"]["input_size"] == [3, 48, 32]


def test_costs_of_shapes(tmp_path):
    given = ("attention=softmax,linear", "model=vit_atto", "res=[[48,32],32]", "what=[params,macs,latency]", "runs=3")
    assert call(tmp_path, "bench", *given, "seconds=0.1", f"output_dir={tmp_path / 'out'}", "quiet=true") == 0
    rows = list(csv.DictReader((tmp_path / "out" / "bench.csv").read_text(encoding="utf-8").splitlines()))
    assert [row["res"] for row in rows] == ["48×32", "48×32", "32", "32"]
    assert [row["tokens"] for row in rows] == ["24", "24", "16", "16"]
    assert all(row["status"] == "ok" for row in rows)
