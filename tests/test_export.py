"""fvit-export: a complete directory, or none."""

import json
from dataclasses import replace

import pytest
import timm
import torch

from fvit.config.errors import ConfigError
from fvit.config.overrides import quoted
from fvit.config.schemas.export import Export
from fvit.export import export, load
from fvit.models.export import FORMATS
from fvit.training import Classifier, checkpoint
from tests.tasks import checked, trained
from tests.training.fitting import DIGITS


@pytest.fixture(scope="module")
def run(tmp_path_factory):
    """With averaged weights that differ clearly from the last ones."""
    averaging = ("callbacks=[default,ema]", "callbacks.ema.decay=0.9")
    return trained(tmp_path_factory.mktemp("run"), "logger=none", *DIGITS, "optimizer.lr=4e-3", *averaging)


def exported(run, out, form="safetensors"):
    export(checked("export", Export, f"ckpt_path={run}", f"format={form}", f"out={quoted(str(out))}"))
    return out


def images(batch=4):
    return torch.randn(batch, 3, 32, 32, generator=torch.Generator().manual_seed(5))


def test_averaged_weights_are_exported(run, tmp_path, capsys):
    out = exported(run, tmp_path / "its" / "o'ut")
    assert sorted(path.name for path in out.iterdir()) == ["README.md", "config.json", "model.safetensors"]
    assert [path.name for path in out.parent.iterdir()] == ["o'ut"]
    model = timm.create_model(f"local-dir:{out}", pretrained=True).eval()
    content = checkpoint.read(checkpoint.find(run))
    for name, expected in (("state_dict", True), ("current_model_state", False)):
        module = Classifier.load_from_checkpoint(checkpoint.find(run)).eval()
        module.load_state_dict(content[name])
        with torch.no_grad():
            assert torch.allclose(model(images()), module(images()), atol=1e-5) is expected
    printed = capsys.readouterr().out
    assert f"import fvit.models, then timm.create_model({f'local-dir:{out}'!r}, pretrained=True)" in printed
    assert "logits differ from the checkpoint's by at most" in printed


def test_card_has_recipe_metrics_cost_and_limits(run, tmp_path):
    text = (exported(run, tmp_path / "out") / "README.md").read_text()
    content = checkpoint.read(checkpoint.find(run))
    for expected in (
        "# vit_tiny_patch16_224 with additive attention",
        "import fvit.models",
        f'timm.create_model("local-dir:{tmp_path / "out"}", pretrained=True)',
        "| data | digits, 10 classes, images of 32 × 32 px |",
        "| optimizer | opt adamw, lr 0.004",
        "| weights | averaged over training (EMA) |",
        f"| val/acc1 | {content['metrics']['val/acc1']:.6g} |",
        "MACs per image.",
        "order of the logits: 0, 1, 2, 3, 4, 5, 6, 7, 8, 9.",
        "## Limits",
        "* Loading it runs code of fvit",
    ):
        assert expected in text


def test_card_of_a_checkpoint_without_metrics(run, tmp_path):
    content = torch.load(checkpoint.find(run), weights_only=True)
    del content["metrics"]
    torch.save(content, tmp_path / "bare.ckpt")
    text = (exported(tmp_path / "bare.ckpt", tmp_path / "out") / "README.md").read_text()
    assert text.partition("## Metrics\n\n")[2].startswith("None were recorded.\n\n## Limits")


def test_class_whose_name_is_not_utf8_is_escaped(run, tmp_path):
    """As of a folder from an old archive."""
    content = checkpoint.read(checkpoint.find(run))
    content["classes"] = [b"K\xe4fer".decode(errors="surrogateescape"), *content["classes"][1:]]
    torch.save(content, tmp_path / "a.ckpt")
    out = exported(tmp_path / "a.ckpt", tmp_path / "out")
    assert all(r"K\udce4fer" in (out / name).read_text() for name in ("README.md", "config.json"))


@pytest.mark.slow
def test_program_comes_with_its_preprocessing(run, tmp_path):
    out = exported(run, tmp_path / "out", "torch_export")
    assert sorted(path.name for path in out.iterdir()) == ["README.md", "model.pt2", "preprocessing.json"]
    assert json.loads((out / "preprocessing.json").read_text()) == {
        "img_size": 32,
        "mean": [0.5, 0.5, 0.5],
        "std": [0.5, 0.5, 0.5],
        "crop_pct": 1.0,
        "interpolation": "bicubic",
        "classes": [str(digit) for digit in range(10)],
    }
    assert "import fvit" not in (out / "README.md").read_text()


def test_wrong_logits_leave_no_files(run, tmp_path, monkeypatch):
    def disagreeing(subject, folder):
        other = Classifier.load_from_checkpoint(checkpoint.find(run)).model.eval()
        torch.nn.init.normal_(other.head.weight)
        return FORMATS["safetensors"](replace(subject, original=other), folder)

    monkeypatch.setitem(FORMATS, "timm", disagreeing)
    with pytest.raises(ValueError, match="disagrees with the checkpoint"):
        exported(run, tmp_path / "out", "timm")
    assert list(tmp_path.iterdir()) == []


def test_out_must_be_new_or_empty(run, tmp_path):
    (tmp_path / "README.md").write_text("mine")
    with pytest.raises(ValueError, match="already exists; name a new directory"):
        exported(run, tmp_path)
    assert [path.name for path in tmp_path.iterdir()] == ["README.md"]
    (tmp_path / "empty").mkdir()
    assert (exported(run, tmp_path / "empty") / "model.safetensors").is_file()


def test_out_must_not_be_the_current_directory(run, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    with pytest.raises(ValueError, match=r"out=\. has no name; name a new directory"):
        exported(run, ".")
    assert list(tmp_path.iterdir()) == []


def test_loaded_model_is_that_of_the_checkpoint(run):
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
def test_mistake_is_found_before_anything_is_read(overrides, message):
    with pytest.raises(ConfigError, match=message):
        checked("export", Export, "ckpt_path=a", *overrides)


def test_missing_checkpoint_is_an_error(tmp_path):
    with pytest.raises(FileNotFoundError, match="ckpt_path=missing does not exist"):
        exported("missing", tmp_path / "out")
    assert not (tmp_path / "out").exists()
