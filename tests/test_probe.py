"""fvit-eval probe=…"""

import json
from dataclasses import replace

import numpy as np
import pytest
import torch

from fvit import probe as probes
from fvit.config.schemas.eval import Eval
from fvit.config.schemas.export import Export
from fvit.eval import evaluate
from fvit.export import export
from fvit.training import checkpoint
from fvit.training.probe import Features, run_probe
from tests.data.pictures import jpeg
from tests.tasks import checked, trained
from tests.test_eval import DIGITS, SMALL, load_checkpoint

KNN = {"name": "knn", "k": 20, "temperature": 0.07}


@pytest.fixture(scope="module")
def run(tmp_path_factory):
    return trained(tmp_path_factory.mktemp("run"), *DIGITS, *SMALL)


@pytest.fixture(autouse=True)
def _cache(tmp_path, monkeypatch):
    monkeypatch.setenv("FVIT_CACHE", str(tmp_path / "cache"))


def evaluated(folder, *overrides):
    return evaluate(checked("eval", Eval, f"output_dir={folder}", *overrides))


def photos(root, classes="abc", size=40):
    """Images of noise: 12 per class for training, and 4."""
    for split, count in (("train", 12), ("val", 4)):
        for label, name in enumerate(classes):
            for index in range(count):
                place = root / split / name / f"{index}.jpg"
                place.parent.mkdir(parents=True, exist_ok=True)
                place.write_bytes(jpeg(size, size, seed=100 * label + index + 50 * (split == "val")))
    return root


def computed(monkeypatch):
    """Counts the batches whose features are computed."""
    calls, original = [], probes.features
    monkeypatch.setattr(probes, "features", lambda *args, **options: calls.append(1) or original(*args, **options))
    return calls


def test_probe_of_a_checkpoint_equals_one_of_the_features_in_front_of_its_head(run, tmp_path, capsys):
    metrics = evaluated(tmp_path / "out", f"ckpt_path={run}", "probe=knn")
    module, data = load_checkpoint(run, {})
    taken, splits = [], (data.source.train, data.source.val)
    module.eval().model.head.register_forward_hook(lambda head, args, output: taken.append(args[0].numpy()))
    with torch.no_grad():
        for images in splits:
            data.source = replace(data.source, val=images)  # to be transformed as in validation
            module(data.batch_transform(data.val_images(range(len(images))), False, torch.float32)[0])
    train, val = (
        Features(vectors, images.labels.astype(np.int64)) for vectors, images in zip(taken, splits, strict=True)
    )
    assert metrics == pytest.approx(run_probe(train, val, 10, KNN)[0], abs=3 / len(val.labels))
    assert metrics["val/knn_acc1"] > 0.5
    assert json.loads((tmp_path / "out" / "metrics.json").read_text())["metrics"] == metrics
    out = capsys.readouterr().out
    assert "the head's input, 24 values" in out
    assert "1,437 training and 360 validation images" in out


@pytest.mark.slow
def test_features_are_computed_once_for_all_probes(run, tmp_path, monkeypatch):
    calls = computed(monkeypatch)
    first = evaluated(tmp_path / "a", f"ckpt_path={run}", "probe=knn")
    once = len(calls)
    assert once > 0
    linear = evaluated(tmp_path / "b", f"ckpt_path={run}", "probe=linear", "probe.C=[0.1]")
    assert evaluated(tmp_path / "c", f"ckpt_path={run}", "probe=knn") == first
    assert len(calls) == once
    assert linear["val/linear_acc1"] > first["val/knn_acc1"] - 0.2
    evaluated(tmp_path / "d", f"ckpt_path={run}", "probe=knn", "probe.layer=0", "probe.pool=avg")
    assert len(calls) == 2 * once


def test_other_images_or_weights_are_not_taken_from_the_cache(run, tmp_path, monkeypatch):
    root, calls = photos(tmp_path / "photos"), computed(monkeypatch)
    other = ["probe=knn", "probe.k=3", "data.name=folder", f"data.root={root}"]
    evaluated(tmp_path / "a", f"ckpt_path={run}", *other)
    evaluated(tmp_path / "b", f"ckpt_path={run}", *other)
    assert len(calls) == 2  # one batch per split
    (root / "val" / "a" / "0.jpg").write_bytes(jpeg(40, 40, seed=999)[:-2] + b"\xff\xd9\x00\x00")
    evaluated(tmp_path / "c", f"ckpt_path={run}", *other)
    assert len(calls) == 3  # the training images are the same
    content = checkpoint.read(checkpoint.find(run))
    content["state_dict"]["model.patch_embed.proj.bias"][0] += 1
    torch.save(content, tmp_path / "changed.ckpt")
    evaluated(tmp_path / "d", f"ckpt_path={tmp_path / 'changed.ckpt'}", *other)
    assert len(calls) == 5


def test_damaged_images_are_left_out_and_named(run, tmp_path, caplog):
    root = photos(tmp_path / "photos")
    for split in ("train", "val"):
        (root / split / "b" / "1.jpg").write_bytes(jpeg(40, 40, seed=1)[:-300])
    metrics = evaluated(
        tmp_path / "out", f"ckpt_path={run}", "probe=knn", "probe.k=1", "data.name=folder", f"data.root={root}"
    )
    assert metrics["val/knn_acc1"] * 11 == pytest.approx(round(metrics["val/knn_acc1"] * 11))
    assert "features: 2 images could not be read and were skipped" in caplog.text


@pytest.mark.parametrize(
    ("overrides", "message"),
    [
        (["probe=knn", "probe.layer=1"], "probe.layer=1: VisionTransformer has layers 0 to 0"),
        (["probe=knn", "hardware=ddp_cpu"], "probe=knn runs on one device"),
        (["probe=linear", "compile=true"], "compile has no effect with probe=linear"),
        (["probe=linear", "probe.C=[]"], "probe.*C.* at least 1 item"),
    ],
)
def test_mistakes_are_refused_before_anything_is_written(run, tmp_path, overrides, message):
    with pytest.raises(ValueError, match=message):
        evaluated(tmp_path / "out", f"ckpt_path={run}", *overrides)
    assert not (tmp_path / "out").exists()


@pytest.mark.slow
def test_probe_of_published_weights_is_that_of_the_checkpoint_they_come_from(run, tmp_path):
    export(checked("export", Export, f"ckpt_path={run}", "format=timm", f"out={tmp_path / 'timm'}"))
    published = [f"pretrained=local-dir:{tmp_path / 'timm'}", "data.name=digits"]
    metrics = evaluated(tmp_path / "a", *published, "probe=knn")
    assert metrics == evaluated(tmp_path / "b", f"ckpt_path={run}", "probe=knn")
    with pytest.raises(ValueError, match="tta has no effect with probe=knn: leave it out"):
        evaluated(tmp_path / "c", *published, "probe=knn", "tta=flip")
