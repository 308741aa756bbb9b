"""fvit-export, from a checkpoint to a folder that is there whole or not at all."""

import json
from dataclasses import replace

import pytest
import timm
import torch

from fvit.config.errors import ConfigError
from fvit.config.schemas.export import Export
from fvit.export import export, load
from fvit.models.export import FORMATS
from fvit.training import Classifier, checkpoint
from tests.tasks import checked, trained
from tests.training.fitting import DIGITS

pytestmark = [
    # Lightning 2.6 on torch 2.14: its own use of a deprecated class.
    pytest.mark.filterwarnings("ignore:.*LeafSpec.*:FutureWarning"),
    # Lightning's advice on a machine of more than two cores.
    pytest.mark.filterwarnings("ignore:The '.*' does not have many workers"),
]


@pytest.fixture(scope="module")
def run(tmp_path_factory):
    """Averaged weights, so far from the newest ones that they cannot be mistaken for them."""
    averaging = ("callbacks=[default,ema]", "callbacks.ema.decay=0.9")
    return trained(tmp_path_factory.mktemp("run"), "logger=none", *DIGITS, "optimizer.lr=4e-3", *averaging)


def exported(run, out, form="safetensors"):
    export(checked("export", Export, f"ckpt_path={run}", f"format={form}", f"out={out}"))
    return out


def images(batch=4):
    return torch.randn(batch, 3, 32, 32, generator=torch.Generator().manual_seed(5))


def test_the_averaged_weights_are_what_is_written(run, tmp_path, capsys):
    out = exported(run, tmp_path / "deep" / "out")
    assert sorted(path.name for path in out.iterdir()) == ["README.md", "config.json", "model.safetensors"]
    assert [path.name for path in out.parent.iterdir()] == ["out"], "nothing else is left"
    model = timm.create_model(f"local-dir:{out}", pretrained=True).eval()
    content = checkpoint.read(checkpoint.find(run))
    for name, expected in (("state_dict", True), ("current_model_state", False)):
        module = Classifier.load_from_checkpoint(checkpoint.find(run)).eval()
        module.load_state_dict(content[name])
        with torch.no_grad():
            assert torch.allclose(model(images()), module(images()), atol=1e-5) is expected
    told = capsys.readouterr().out
    assert f"import fvit, then timm.create_model('local-dir:{out}', pretrained=True)" in told
    assert "its logits differ from the checkpoint's by" in told


def test_the_card_tells_recipe_metrics_cost_and_limits(run, tmp_path):
    text = (exported(run, tmp_path / "out") / "README.md").read_text()
    content = checkpoint.read(checkpoint.find(run))
    for expected in (
        "# vit_tiny_patch16_224 with additive attention",
        "import fvit",
        f'timm.create_model("local-dir:{tmp_path / "out"}", pretrained=True)',
        "| data | digits, 10 classes, images of 32 px |",
        "| optimizer | opt adamw, lr 0.004",
        "| weights | averaged over training (EMA) |",
        f"| val/acc1 | {content['metrics']['val/acc1']:.6g} |",
        "multiply-accumulates an image, counted product by product",
        "order of the logits: 0, 1, 2, 3, 4, 5, 6, 7, 8, 9.",
        "## Limits",
        "* Loading it runs code of fvit",
    ):
        assert expected in text


def test_a_card_without_metrics_tells_of_no_measurement(run, tmp_path):
    content = torch.load(checkpoint.find(run), weights_only=True)
    del content["metrics"]
    torch.save(content, tmp_path / "bare.ckpt")
    text = (exported(tmp_path / "bare.ckpt", tmp_path / "out") / "README.md").read_text()
    assert text.partition("## Metrics\n\n")[2].startswith("None were recorded.\n\n## Limits")


def test_a_graph_goes_with_what_its_images_need(run, tmp_path, capsys):
    out = exported(run, tmp_path / "out", "torch_export")
    assert sorted(path.name for path in out.iterdir()) == ["README.md", "model.pt2", "preprocessing.json"]
    told = json.loads((out / "preprocessing.json").read_text())
    assert told == {
        "img_size": 32,
        "mean": [0.5, 0.5, 0.5],
        "std": [0.5, 0.5, 0.5],
        "crop_pct": 1.0,
        "interpolation": "bicubic",
        "classes": [str(digit) for digit in range(10)],
    }
    assert "import fvit" not in (out / "README.md").read_text()


def test_what_disagrees_leaves_nothing(run, tmp_path, monkeypatch):
    def disagreeing(subject, folder):
        other = Classifier.load_from_checkpoint(checkpoint.find(run)).model.eval()
        torch.nn.init.normal_(other.head.weight)
        return FORMATS["safetensors"](replace(subject, original=other), folder)

    monkeypatch.setitem(FORMATS, "timm", disagreeing)
    with pytest.raises(ValueError, match="disagrees with the checkpoint"):
        exported(run, tmp_path / "out", "timm")
    assert list(tmp_path.iterdir()) == []


def test_a_folder_that_holds_something_is_left_alone(run, tmp_path):
    (tmp_path / "README.md").write_text("mine")
    with pytest.raises(ValueError, match="is there already; name a new folder"):
        exported(run, tmp_path)
    assert [path.name for path in tmp_path.iterdir()] == ["README.md"]
    (tmp_path / "empty").mkdir()
    assert (exported(run, tmp_path / "empty") / "model.safetensors").is_file()


def test_the_current_folder_is_no_new_one(run, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    with pytest.raises(ValueError, match=r"out=\. has no name; name a new folder"):
        exported(run, ".")
    assert list(tmp_path.iterdir()) == []


def test_what_is_exported_is_what_the_checkpoint_says(run):
    path = checkpoint.find(run)
    subject = load(path, checkpoint.read(path))
    assert subject.classes == [str(digit) for digit in range(10)]
    assert str(subject) == "vit_tiny_patch16_224 with additive attention"
    assert not any(parameter.requires_grad for parameter in subject.model.parameters())


@pytest.mark.parametrize(
    ("overrides", "message"),
    [
        (["format=onx", "out=a"], "format='onx': input should be 'onnx', 'torch_export', 'safetensors' or 'timm'"),
        (["out=a"], "format must be given"),
        (["format=onnx"], "out must be given"),
        (["format=onnx", "out=''"], "out='': string should have at least 1 character"),
    ],
)
def test_a_mistake_is_found_before_anything_is_read(overrides, message):
    with pytest.raises(ConfigError, match=message):
        checked("export", Export, "ckpt_path=a", *overrides)


def test_a_checkpoint_that_is_none_is_named(tmp_path):
    with pytest.raises(FileNotFoundError, match="ckpt_path=missing does not exist"):
        exported("missing", tmp_path / "out")
    assert not (tmp_path / "out").exists()
