"""fvit-export push=…: what arrives on a hub, and what can be loaded from it again."""

import socket

import pytest
import timm
import torch
import yaml

import fvit
from fvit.config.schemas.export import Export
from fvit.export import export
from fvit.models.export import push
from fvit.training import checkpoint
from tests.hub_stub import TOKEN, serving
from tests.tasks import checked, trained
from tests.training.fitting import FAKE

ME = "me/small-vit"


@pytest.fixture(scope="module")
def run(tmp_path_factory):
    return trained(tmp_path_factory.mktemp("run"), *FAKE, "logger=none")


@pytest.fixture
def hub(tmp_path):
    with serving(tmp_path) as hub:
        yield hub


def shared(run, out, *overrides, form="safetensors"):
    export(checked("export", Export, f"ckpt_path={run}", f"format={form}", f"out={out}", f"push={ME}", *overrides))
    return out


def front_matter(text):
    head, _, body = text.removeprefix("---\n").partition("\n---\n")
    return yaml.safe_load(head), body


def test_without_a_token_nothing_is_sent(run, hub, tmp_path, capsys):
    out = shared(run, tmp_path / "out")
    printed = capsys.readouterr().out
    assert "dry run" in printed
    assert f"{hub.url}/{ME}" in printed
    assert "a public model, if it is new: README.md, config.json, model.safetensors" in printed
    assert (hub.requests, (out / "model.safetensors").is_file()) == ([], True)


def test_what_was_pushed_loads_with_fvit_and_timm(run, hub, tmp_path, monkeypatch, capsys):
    monkeypatch.setenv("HF_TOKEN", TOKEN)
    out = shared(run, tmp_path / "out", "private=true")
    assert f"{hub.url}/{ME}" in capsys.readouterr().out
    model = hub.models[ME]
    assert model["private"] is True
    assert model["files"] == {path.name: path.read_bytes() for path in out.iterdir()}
    assert model["messages"] == [f"vit_tiny_patch16_224 with additive attention, exported by fvit {fvit.__version__}"]
    assert f'timm.create_model("hf-hub:{ME}", pretrained=True)' in model["files"]["README.md"].decode()
    assert str(tmp_path) not in model["files"]["README.md"].decode()
    images = torch.rand(2, 3, 32, 32)
    expected, transform, classes = fvit.load(run)
    loaded = fvit.load(f"hf-hub:{ME}")
    assert torch.allclose(loaded.model(images), expected(images), atol=1e-5)
    assert loaded.classes == classes
    pixels = (images[0].permute(1, 2, 0) * 255).byte().numpy()
    assert torch.equal(loaded.transform(pixels), transform(pixels))
    again = timm.create_model(f"hf-hub:{ME}", pretrained=True).eval()
    assert torch.equal(again(images), loaded.model(images))
    monkeypatch.setenv("HF_TOKEN", TOKEN)
    push(out, ME, False, "again")  # a second commit to the same model
    assert (len(model["messages"]), model["private"]) == (2, True)


def test_card_has_the_front_matter_of_the_hub(run, hub, tmp_path):
    metrics = checkpoint.read(checkpoint.find(run))["metrics"]
    found, body = front_matter((shared(run, tmp_path / "out") / "README.md").read_text())
    assert body.lstrip().startswith("# vit_tiny_patch16_224 with additive attention")
    assert (found["library_name"], found["pipeline_tag"]) == ("fvit", "image-classification")
    assert found["tags"] == ["image-classification", "fvit", "timm"]
    assert "license" not in found
    [results] = found["model-index"]
    assert results["name"] == "vit_tiny_patch16_224, additive"
    [result] = results["results"]
    assert result["dataset"] == {"name": "fake", "type": "fake", "split": "val"}
    assert [(one["type"], one["name"]) for one in result["metrics"]] == [
        ("accuracy", "top-1 accuracy"),
        ("accuracy", "top-5 accuracy"),
    ]
    assert result["metrics"][0]["value"] == pytest.approx(metrics["val/acc1"])
    assert "| length | 1 epoch, 4 updates |" in body


@pytest.mark.slow
def test_front_matter_names_the_library_that_loads_it(hub, tmp_path):
    run = trained(tmp_path / "run", *FAKE, "logger=none", "attention=softmax")
    for form, library in (("timm", "timm"), ("torch_export", "pytorch"), ("onnx", "onnx")):
        found, _ = front_matter((shared(run, tmp_path / form, form=form) / "README.md").read_text())
        assert found["library_name"] == library


@pytest.mark.parametrize(
    ("token", "refusal", "message"),
    [
        ("hf_wrong", None, "it does not accept the token"),
        (TOKEN, 403, f"the token may not write to {ME}"),
        (TOKEN, 418, "no"),
    ],
)
def test_a_hub_that_refuses_leaves_the_export(run, hub, tmp_path, monkeypatch, token, refusal, message):
    monkeypatch.setenv("HF_TOKEN", token)
    hub.refusal = refusal
    with pytest.raises(ValueError, match=f"did not take it: {message}.*Send it later with: hf upload {ME} "):
        shared(run, tmp_path / "out")
    assert (tmp_path / "out" / "README.md").is_file()


def test_a_hub_that_cannot_be_reached(tmp_path, monkeypatch, hub):
    with socket.socket() as unused:
        unused.bind(("127.0.0.1", 0))
        monkeypatch.setattr("huggingface_hub.constants.ENDPOINT", f"http://127.0.0.1:{unused.getsockname()[1]}")
        monkeypatch.setenv("HF_TOKEN", TOKEN)
        with pytest.raises(ValueError, match=r"did not take it: ConnectError: .*Send it later"):
            push(tmp_path, ME, False, "message")


@pytest.mark.parametrize("name", ["small-vit", "a/b/c", "me/", "me/sm all", "me/small..vit"])
def test_a_name_that_is_none_is_refused_before_the_export(run, tmp_path, name):
    config = checked("export", Export, f"ckpt_path={run}", "format=timm", f"out={tmp_path / 'out'}", f"push='{name}'")
    with pytest.raises(ValueError, match=r"push=.*(is no name of a model on the Hub|must be USER/NAME)"):
        export(config)
    assert not (tmp_path / "out").exists()
