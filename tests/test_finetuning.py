"""The commands of docs/finetuning.md, run on real images: crops of the two photographs that come with scikit-learn."""

import re
import shlex
from pathlib import Path

import pytest
import timm
import torch
from PIL import Image
from sklearn.datasets import load_sample_images
from timm.models import save_for_hf

from .tasks import call

PAGE = Path(__file__).resolve().parents[1] / "docs" / "finetuning.md"
SHAPE = dict(patch_size=16, embed_dim=24, depth=12, num_heads=3)
COMMANDS = [
    line
    for block in re.findall(r"^```bash\n(.*?)^```", PAGE.read_text(encoding="utf-8"), flags=re.MULTILINE | re.DOTALL)
    for line in block.splitlines()
]

# The best score stays with the directory of the run that is continued.
pytestmark = pytest.mark.filterwarnings("ignore:The dirpath has changed from")


@pytest.fixture(scope="module")
def place(tmp_path_factory):
    """A directory with images (DIR, OTHER, NEW), weights (FOLDER, FILE) and a finetuned run (logs/mine)."""
    place = tmp_path_factory.mktemp("finetuning")
    for name, pixels in zip(("china", "flower"), load_sample_images().images, strict=True):
        for index in range(12):
            split = "val" if index % 3 == 0 else "train"
            top, left = 90 * (index % 4), 150 * (index // 4)
            crop = Image.fromarray(pixels[top : top + 120, left : left + 140])
            for folder in (f"DIR/{split}/{name}", f"OTHER/{split}/{name}", "NEW"):
                (place / folder).mkdir(parents=True, exist_ok=True)
                crop.save(place / folder / f"{name}{index}.jpg")
    torch.manual_seed(0)
    model = timm.create_model("deit_small_patch16_224", img_size=64, num_classes=1000, **SHAPE)
    data = {"mean": (0.4, 0.4, 0.4), "std": (0.2, 0.2, 0.2), "input_size": (3, 64, 64)}
    save_for_hf(model, place / "FOLDER", {}, {**SHAPE, "img_size": 64}, True, data)
    torch.save(model.state_dict(), place / "FILE")
    return place


def substituted(line, place):
    """The command with small weights in place of those that would be downloaded, and with one epoch of two steps."""
    words = shlex.split(line)
    if words[0] != "fvit-train":
        return words
    if "+model.pretrained_cfg_overlay.file=FILE" in words:
        shape = [f"+model.{key}={value}" for key, value in SHAPE.items()]
        words += [*shape, "+model.pretrained_cfg_overlay.input_size=[3,64,64]"]
    elif "model=vit_tiny" in words or any(word.startswith("model.init_from") for word in words):
        shape = [f"{'' if 'model=vit_tiny' in words else '+'}model.{key}={value}" for key, value in SHAPE.items()]
        words += [*shape, *(["model.global_pool=token"] if "model=vit_tiny" in words else [])]
    else:
        words = [f"model.name=local-dir:{place / 'FOLDER'}" if w.startswith("model.name=deit") else w for w in words]
    sizes = {"data.img_size=384": "data.img_size=96", "data.img_size=320": "data.img_size=80"}
    words = [sizes.get(word, word.replace("[256,192]", "[64,48]")) for word in words]
    # One epoch, or two if the first is to end with a release, or has been trained.
    words = [word.replace("unfreeze.epoch=5", "unfreeze.epoch=1") for word in words]
    epochs = 1 + bool({"callbacks.unfreeze.epoch=1", "ckpt_path=logs/mine"} & {*words})
    short = [f"trainer.max_epochs={epochs}", "global_batch_size=8", "data.num_workers=0"]
    return [*words, *short, "logger=none", "quiet=true"]


@pytest.fixture(scope="module")
def finetuned(place):
    program, *arguments = substituted(COMMANDS[0], place)
    assert call(place, program.removeprefix("fvit-"), *arguments) == 0
    return place


@pytest.mark.slow
def test_folder_in_five_minutes(finetuned, capfd):
    """The first commands of the page, of which the others take the run."""
    assert (finetuned / "logs/mine/checkpoints/best.ckpt").is_file()
    config = (finetuned / "logs/mine/config.yaml").read_text()
    assert "img_size: 64" in config  # of the weights
    for line in COMMANDS[1:3]:
        program, *arguments = shlex.split(line)
        assert call(finetuned, program.removeprefix("fvit-"), *arguments) == 0
    predictions = (finetuned / "predictions.csv").read_text().splitlines()
    assert len(predictions) == 1 + 24
    capfd.readouterr()


@pytest.mark.slow
@pytest.mark.parametrize(
    "line",
    [
        pytest.param(line, marks=pytest.mark.exhaustive) if index % 3 else line
        for index, line in enumerate(COMMANDS[3:])
    ],
    ids=lambda line: line.removeprefix("fvit-train experiment=finetune "),
)
def test_command_runs(finetuned, line, capfd):
    program, *arguments = substituted(line, finetuned)
    code = call(finetuned, program.removeprefix("fvit-"), *arguments)
    assert code == 0, capfd.readouterr().err
