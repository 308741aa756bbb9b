"""fvit-predict: predictions and maps equal those of the checkpoint's own model."""

import csv
import json
import re
import shutil
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from fvit.config.errors import ConfigError, RunError
from fvit.config.schemas.export import Export
from fvit.config.schemas.predict import Predict
from fvit.data.inference import InferenceBatch, find_images, inference_batches
from fvit.data.sources import load
from fvit.export import export
from fvit.models.maps import attention_maps
from fvit.predict import draw_maps, predict, quote_images
from fvit.training import Classifier, checkpoint
from tests.models.small import attending_to_brightness, bright
from tests.tasks import checked, rows_of, trained
from tests.training.fitting import DIGITS

TRAINING = ("logger=none", *DIGITS, "optimizer.lr=4e-3")


@pytest.fixture(scope="module")
def run(tmp_path_factory):
    return trained(tmp_path_factory.mktemp("run"), *TRAINING, "+trainer.limit_train_batches=6")


@pytest.fixture(scope="module")
def photos(tmp_path_factory):
    """Handwritten digits as PNG and JPEG files in two directories; two files are broken."""
    folder = tmp_path_factory.mktemp("photos")
    (folder / "sub").mkdir()
    images = load("digits").val
    for index in range(12):
        name = f"{index:02}_{images.labels[index]}"
        picture = Image.fromarray(images.read(index)).resize((40 + index, 40), Image.Resampling.BICUBIC)
        picture.save(folder / "sub" / f"{name}.jpg" if index % 2 else folder / f"{name}.png")
    (folder / "broken.jpg").write_bytes((folder / "sub" / f"01_{images.labels[1]}.jpg").read_bytes()[:-200])
    (folder / "sub" / "empty.png").write_bytes(b"")
    return folder


def predicted(folder, run, images, *overrides):
    fixed = [f"output_dir={folder / 'maps'}", f"ckpt_path={run}", f"images='{images}'", "batch_size=5"]
    return predict(checked("predict", Predict, *fixed, *overrides))


def directly(run, images):
    """The probabilities of each file, computed from the checkpoint; the module and the batch."""
    path = checkpoint.find(run)
    module = Classifier.load_from_checkpoint(path).eval()
    trained = checkpoint.read(path)["datamodule_hyper_parameters"]
    [batch] = inference_batches(find_images(images), trained, 100, 0, torch.device("cpu"))
    with torch.no_grad():
        return dict(zip(batch.files, module(batch.images).softmax(dim=1), strict=True))


def test_directory_to_csv(run, photos, tmp_path, capsys):
    predicted(tmp_path, run, photos, f"out={tmp_path / 'deep' / 'out.csv'}")
    with (tmp_path / "deep" / "out.csv").open() as file:
        rows = {row["file"]: row for row in csv.DictReader(file)}
    assert len(rows) == 14
    for file, probabilities in directly(run, photos).items():
        order = probabilities.argsort(descending=True)[:5].tolist()
        assert [rows[file][f"class{rank}"] for rank in range(1, 6)] == [str(digit) for digit in order]
        for rank, index in enumerate(order, start=1):
            assert float(rows[file][f"probability{rank}"]) == pytest.approx(probabilities[index].item(), abs=1e-5)
    failed = {file: row["error"] for file, row in rows.items() if row["error"]}
    assert set(failed) == {str(photos / "broken.jpg"), str(photos / "sub" / "empty.png")}
    out = capsys.readouterr().out
    assert "12 in " in out
    assert "2 skipped" in out
    assert f"skipped {photos / 'broken.jpg'}: " in out
    assert [path.name for path in (tmp_path / "deep").iterdir()] == ["out.csv"]
    assert not (tmp_path / "maps").exists()


def test_bf16_gives_about_the_same_probabilities(run, photos, tmp_path):
    found = {}
    for precision in ("float32", "bf16"):
        predicted(tmp_path, run, photos, f"precision={precision}", f"out={tmp_path / precision}.json")
        listed = json.loads((tmp_path / f"{precision}.json").read_text())
        found[precision] = [one["top"][0]["probability"] for one in listed if "top" in one]
    assert found["bf16"] == pytest.approx(found["float32"], abs=0.05)
    assert found["bf16"] != found["float32"]


@pytest.mark.parametrize(("pattern", "count"), [("*.png", 6), ("sub/*.jpg", 6), ("**/0*", 10)])
def test_pattern_to_json(run, photos, tmp_path, pattern, count):
    predicted(tmp_path, run, photos / pattern, f"out={tmp_path / 'out.json'}")
    found = json.loads((tmp_path / "out.json").read_text())
    assert len(found) == count
    for one in found:
        assert len(one["top"]) == 5
        assert sum(rank["probability"] for rank in one["top"]) <= 1 + 1e-5


def test_images_in_folders_named_after_classes_give_an_accuracy(run, photos, tmp_path, capsys):
    digits, found = tmp_path / "digits", directly(run, photos)
    for file in found:
        place = digits / "val" / Path(file).stem.split("_")[1]
        place.mkdir(parents=True, exist_ok=True)
        shutil.copy(file, place)
    right = sum(Path(file).stem.split("_")[1] == str(int(p.argmax())) for file, p in found.items())
    labels = [Path(file).stem.split("_")[1] for file in found]
    correct = [str(int(p.argmax())) == label for label, p in zip(labels, found.values(), strict=True)]
    by_class = [
        np.mean([yes for yes, label in zip(correct, labels, strict=True) if label == one]) for one in set(labels)
    ]
    balanced = np.mean(by_class)
    for images, count in ((digits, 12), (digits / "val" / "*" / "*.*", 12), (digits / "val", 12)):
        predicted(tmp_path, run, images, f"out={tmp_path / 'out.csv'}")
        rows = rows_of(tmp_path / "out.csv")
        assert [row["label"] for row in rows] == [Path(row["file"]).stem.split("_")[1] for row in rows]
        out = capsys.readouterr().out
        assert f"balanced accuracy  {100 * balanced:.2f} %" in out
        accuracy = f"accuracy +{100 * right / count:.2f} % of {count} images in folders named after classes"
        assert re.search(accuracy, out)
        assert re.search("calibration error +[0-9.]+ %", out)
    (digits / "val").rename(digits / "other")
    shutil.copytree(place.parents[1] / "other" / place.name, digits / "zebra")
    predicted(tmp_path, run, digits)
    assert " of 12 images in folders named after classes" in capsys.readouterr().out
    predicted(tmp_path, run, photos)
    assert "accuracy" not in capsys.readouterr().out


def test_published_weights_predict_what_the_checkpoint_does(run, photos, tmp_path):
    export(checked("export", Export, f"ckpt_path={run}", "format=safetensors", f"out={tmp_path / 'published'}"))
    for name, model in (("ours", f"ckpt_path={run}"), ("theirs", f"pretrained=local-dir:{tmp_path / 'published'}")):
        fixed = [f"output_dir={tmp_path}", f"images='{photos}'", f"out={tmp_path / name}.csv"]
        predict(checked("predict", Predict, *fixed, model))
    ours, theirs = (rows_of(tmp_path / f"{name}.csv") for name in ("ours", "theirs"))
    assert [row["class1"] for row in ours] == [row["class1"] for row in theirs]
    for one, other in zip(ours, theirs, strict=True):
        if not one["error"]:
            assert float(one["probability1"]) == pytest.approx(float(other["probability1"]), abs=1e-4)


def test_views_are_averaged(run, photos, tmp_path):
    image = sorted(photos.glob("*.png"))[0]
    predicted(tmp_path, run, image, "tta=flip", f"out={tmp_path / 'out.json'}")
    module = Classifier.load_from_checkpoint(checkpoint.find(run)).eval()
    trained = checkpoint.read(checkpoint.find(run))["datamodule_hyper_parameters"]
    [batch] = inference_batches(find_images(image), trained, 1, 0, torch.device("cpu"))
    with torch.no_grad():
        mean = sum(module(images).softmax(dim=1)[0] for images in (batch.images, batch.images.flip(-1))) / 2
    [found] = json.loads((tmp_path / "out.json").read_text())
    for one in found["top"]:
        assert one["probability"] == pytest.approx(mean[int(one["class"])].item(), abs=1e-5)
    with pytest.raises(ConfigError, match="maps=true draws one view of an image; leave tta=flip out"):
        predicted(tmp_path, run, image, "tta=flip", "maps=true")


def test_maps_of_one_image(run, photos, tmp_path):
    image = sorted(photos.glob("*.png"))[0]
    predicted(tmp_path, run, image, "maps=true")
    assert sorted(path.name for path in (tmp_path / "maps").iterdir()) == [
        f"{image.name}.key.png",
        f"{image.name}.query.png",
    ]


def test_maps_keep_the_directories_of_the_images(run, photos, tmp_path):
    predicted(tmp_path, run, photos, "maps=true")
    pictures = {path.relative_to(tmp_path / "maps") for path in (tmp_path / "maps").rglob("*.png")}
    names = {path.relative_to(photos) for path in photos.rglob("*_*")}
    assert pictures == {name.with_name(f"{name.name}.{kind}.png") for name in names for kind in ("key", "query")}


@pytest.mark.parametrize("place", [(0, 0), (1, 3), (0, 4)])
def test_map_is_bright_at_the_patch_that_is_attended_to(tmp_path, place):
    """A white patch on black, and a model whose first global query attends to bright patches."""
    model, image = attending_to_brightness("additive"), bright(*place)
    pixels = (255 * image[0]).permute(1, 2, 0).to(torch.uint8)
    names = [f"class {index}" for index in range(model.num_classes)]
    list(draw_maps([InferenceBatch(["a.png"], pixels[None], image, ())], model, names, tmp_path, ""))
    sheet = torch.from_numpy(np.array(Image.open(tmp_path / "a.png.query.png").convert("L"))).float()
    # Tiles, 96 pixels wide: the image, the mean, head 0.
    tile = sheet[66:, 76 + 204 : 76 + 300]
    height = round(96 * 16 / 40)
    y, x = divmod(int(tile[:height].argmax()), 96)
    assert (2 * y // height, 5 * x // 96) == place
    weights = attention_maps(model, image)[0].weights[0, 0]
    assert divmod(int(weights.argmax()), 5) == place


def test_maps_name_the_predicted_class(tmp_path, monkeypatch):
    drawn = []
    monkeypatch.setattr("fvit.models.overlay.draw", lambda *arguments: drawn.append(arguments[3:]))
    model, image = attending_to_brightness("additive"), bright(0, 0)
    names = [f"class {index}" for index in range(model.num_classes)]
    list(draw_maps([InferenceBatch(["a.png"], torch.zeros(1, 16, 40, 3), image, ())], model, names, tmp_path, ""))
    probability, index = model(image).softmax(dim=1)[0].max(dim=0)
    predicted = f"predicted: class {int(index)}, {100 * probability:.1f} %"
    assert drawn == [("a.png, query", predicted), ("a.png, key", predicted)]


def test_attention_without_weights_is_mapped_by_its_jacobian(tmp_path_factory, photos, tmp_path):
    linear = trained(tmp_path_factory.mktemp("linear"), *TRAINING, "attention=linear", "+trainer.limit_train_batches=1")
    image = sorted(photos.glob("*.png"))[0]
    predicted(tmp_path, linear, image, "maps=true")
    assert [path.name for path in (tmp_path / "maps").iterdir()] == [f"{image.name}.jacobian.png"]


def test_no_readable_image_is_an_error_and_leaves_no_file(run, photos, tmp_path):
    (tmp_path / "photos").mkdir()
    (tmp_path / "photos" / "a.jpg").write_bytes((photos / "broken.jpg").read_bytes())
    with pytest.raises(RunError, match=r"none of 1 images could be read; the first, .*a\.jpg: "):
        predicted(tmp_path, run, tmp_path / "photos", f"out={tmp_path / 'out' / 'a.jsonl'}")
    assert list((tmp_path / "out").iterdir()) == []


def test_existing_file_survives_an_error(run, photos, tmp_path):
    (tmp_path / "out.csv").write_text("mine")
    with pytest.raises(RunError):
        predicted(tmp_path, run, photos / "broken.jpg", f"out={tmp_path / 'out.csv'}")
    assert (tmp_path / "out.csv").read_text() == "mine"


def test_non_finite_logits_are_an_error(run, photos, tmp_path):
    content = torch.load(checkpoint.find(run), weights_only=True)
    content["state_dict"]["model.head.weight"].fill_(float("nan"))
    torch.save(content, tmp_path / "diverged.ckpt")
    with pytest.raises(RunError, match=r"logits of .*00_\d\.png are not finite: training diverged"):
        predicted(tmp_path, tmp_path / "diverged.ckpt", photos, f"out={tmp_path / 'out.csv'}")
    assert not (tmp_path / "out.csv").exists()


def test_out_must_not_be_a_directory(run, photos, tmp_path):
    (tmp_path / "out.csv").mkdir()
    with pytest.raises(ConfigError, match=r"out.csv is a directory"):
        predicted(tmp_path, run, photos, f"out={tmp_path / 'out.csv'}")


def test_checkpoint_without_class_names_gives_numbers(run, photos, tmp_path):
    content = torch.load(checkpoint.find(run), weights_only=True)
    assert content.pop("classes") == [str(digit) for digit in range(10)]
    torch.save(content, tmp_path / "old.ckpt")
    predicted(tmp_path, tmp_path / "old.ckpt", photos / "*.png", f"out={tmp_path / 'out.jsonl'}")
    for line in (tmp_path / "out.jsonl").read_text().splitlines():
        assert json.loads(line)["top"][0]["class"].startswith("class ")


AWKWARD = ["a,b.jpg", "photo (1).jpg", "a=b.jpg", "it's.jpg", "[1].jpg", "{x}.jpg", "a b, c.jpg", "ä#1.jpg", "x\\y.jpg"]


@pytest.mark.parametrize("name", AWKWARD)
def test_name_needs_no_quotes_of_hydra(name):
    [word, other] = quote_images([f"images={name}", "out=a.csv"])
    assert other == "out=a.csv"
    config = checked("predict", Predict, "ckpt_path=a", "output_dir=c", word)
    assert config["images"] == name
    assert quote_images([word]) == [word], "it may have quotes"
    assert quote_images([f"images={name}", "-m"]) == [f"images={name}", "-m"], "in a sweep, commas separate values"


@pytest.mark.parametrize(
    ("override", "message"),
    [
        ("out=a.txt", "out=a.txt must end in .csv, .json or .jsonl"),
        ("images=''", "images='': string should have at least 1 character"),
        ("batch_size=0", "batch_size=0: input should be greater than or equal to 1"),
        ("device=gpu", "device='gpu'"),
        ("+imges=a", "unknown key imges='a', did you mean images"),
    ],
)
def test_mistake_is_found_before_anything_is_read(override, message):
    with pytest.raises(ConfigError, match=message):
        checked("predict", Predict, "ckpt_path=a", "images=b", "output_dir=c", override)


@pytest.mark.slow
def test_command_line_prints_predictions_and_skipped_images(run, photos, tmp_path):
    command = [sys.executable, "-m", "fvit.predict", f"ckpt_path={run}", f"images={photos}", "out=out.csv"]
    done = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True, timeout=300)
    assert done.returncode == 0, done.stderr
    assert "skipped" in done.stdout
    assert re.fullmatch(r"fvit-predict [\d.]+: loading libraries …\n", done.stderr)
    for file, probabilities in directly(run, photos).items():
        [line] = [line for line in done.stdout.splitlines() if line.startswith(file)]
        printed = [(int(digit), float(share)) for digit, share in re.findall(r"(\d)  ([\d.]+) %", line)]
        assert [digit for digit, _ in printed] == probabilities.argsort(descending=True)[:5].tolist()
        for digit, share in printed:
            assert share == pytest.approx(100 * probabilities[digit].item(), abs=0.06)
    assert [path.name for path in tmp_path.iterdir()] == ["out.csv"]
