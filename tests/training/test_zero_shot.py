"""Zero-shot classification with small random towers, held to a direct computation in float64."""

import json
import logging
import time
from pathlib import Path

import numpy as np
import pytest
import torch
import torch.nn.functional as F

from fvit.config.errors import ConfigError
from fvit.config.schemas.eval import Eval
from fvit.cost import count
from fvit.eval import evaluate, load
from fvit.training.zero_shot import classify, open_image_text, words_of
from tests.data.pictures import jpeg, read_by_pil
from tests.hub_stub import serving
from tests.tasks import call_apart, checked, rows_of

open_clip = pytest.importorskip("open_clip")

TOWER = {"layers": 2, "width": 32}
CONFIG = {
    "embed_dim": 16,
    "vision_cfg": {**TOWER, "image_size": 32, "head_width": 16, "patch_size": 8},
    "text_cfg": {**TOWER, "context_length": 24, "vocab_size": 49408, "heads": 2},
}
KINDS = {
    "clip": {},
    "custom text": {"custom_text": True},
    "bias": {"custom_text": True, "init_logit_bias": -10},
    "coca": {
        "custom_text": True,
        "text_cfg": {**CONFIG["text_cfg"], "embed_cls": True, "output_tokens": True},
        "multimodal_cfg": {**TOWER, "context_length": 24, "vocab_size": 49408, "heads": 2},
        "vision_cfg": {**CONFIG["vision_cfg"], "attentional_pool": True, "attn_pooler_heads": 2, "output_tokens": True},
    },
}
TEMPLATES = ["a photo of a {}.", "a drawing of the {}, in black and white"]
PREPROCESSING = {"mean": [0.4, 0.5, 0.6], "std": [0.2, 0.3, 0.4], "interpolation": "bicubic"}
CPU = torch.device("cpu")


def save(folder, kind="clip", resize_mode="shortest"):
    """Random towers as open_clip saves them for a hub."""
    config, classes = {**CONFIG, **KINDS[kind]}, {"clip": open_clip.CLIP, "coca": open_clip.CoCa}
    torch.manual_seed(0)
    arguments = {key: value for key, value in config.items() if key != "custom_text"}
    model = classes.get(kind, open_clip.CustomTextCLIP)(**arguments)
    with torch.no_grad():
        for parameter in model.parameters():
            parameter += 0.05 * torch.randn_like(parameter)  # some begin with zeros, or equal
        model.logit_scale.fill_(3)
    folder.mkdir(exist_ok=True)
    described = {"model_cfg": config, "preprocess_cfg": {**PREPROCESSING, "resize_mode": resize_mode}}
    (folder / "open_clip_config.json").write_text(json.dumps(described))
    torch.save(model.state_dict(), folder / "open_clip_pytorch_model.bin")
    return f"local-dir:{folder}"


@pytest.fixture(scope="module")
def towers(tmp_path_factory):
    return save(tmp_path_factory.mktemp("towers"))


@pytest.fixture(scope="module")
def photos(tmp_path_factory):
    """Noise, wider than high, in folders of three classes of other sizes."""
    root = tmp_path_factory.mktemp("photos")
    for label, (name, images) in enumerate({"golden_retriever": 5, "n02123045": 7, "tea pot": 3}.items()):
        for index in range(images):
            place = root / name / f"{index}.jpg"
            place.parent.mkdir(exist_ok=True)
            place.write_bytes(jpeg(60, 40, seed=100 * label + index))
    return root


def evaluated(folder, *overrides):
    return evaluate(checked("eval", Eval, f"output_dir={folder}", *overrides))


def on(photos):
    return "data.name=folder", f"data.root={photos}", "data.val_split=1"


def reference(name, images, words, templates):
    """Log-probabilities float64 [B, classes]: each text and each image on its own."""
    model, tokenizer = open_clip.create_model(name).double().eval(), open_clip.get_tokenizer(name)
    columns = []
    with torch.no_grad():
        for word in words:
            texts = [model.encode_text(tokenizer(text.replace("{}", word))) for text in templates]
            columns.append(F.normalize(torch.cat([F.normalize(text, dim=-1) for text in texts]).mean(0), dim=0))
        features = torch.cat([F.normalize(model.encode_image(image[None].double()), dim=-1) for image in images])
        logits = model.logit_scale.exp() * features @ torch.stack(columns, dim=1)
        return (logits if model.logit_bias is None else logits + model.logit_bias).log_softmax(dim=1)


@pytest.mark.parametrize("kind", KINDS)
def test_logits_are_similarities_with_the_mean_of_the_texts(tmp_path, kind):
    name, images = save(tmp_path / "towers", kind), torch.randn(4, 3, 32, 32)
    classes = ["cat", "dog", *(f"thing of kind {index}" for index in range(10))]  # more than one pass of the text tower
    module, facts = classify(open_image_text(name, None), classes, TEMPLATES, CPU)
    with torch.no_grad():
        logits = module(images)
    expected = reference(name, images, classes, TEMPLATES)
    assert expected.exp().std(dim=1).min() > 1e-3  # else nothing would be compared
    torch.testing.assert_close(logits.double().log_softmax(dim=1), expected, rtol=0, atol=2e-5)
    assert dict(facts)["texts"] == "2 per class, averaged; the first: a photo of a cat."


def test_evaluation_reports_the_metrics_of_all_others(towers, photos, tmp_path, capsys):
    templates = f"templates={json.dumps(TEMPLATES)}"
    metrics = evaluated(tmp_path / "out", f"zero_shot={towers}", templates, *on(photos))
    data = load(open_image_text(towers, None), {"name": "folder", "root": str(photos), "val_split": 1}, False)
    images, _ = data.batch_transform(data.val_images(range(15)), False, torch.float32)
    logits = reference(towers, images, ["golden retriever", "tabby cat", "tea pot"], TEMPLATES)
    labels = torch.tensor(data.source.val.labels).long()
    right = (logits.argmax(1) == labels).double()
    assert metrics["val/acc1"] == pytest.approx(right.mean().item())
    assert metrics["val/loss"] == pytest.approx(F.nll_loss(logits, labels).item(), rel=1e-5)
    balanced = np.mean([right[labels == label].mean().item() for label in range(3)])
    assert metrics["val/balanced_acc"] == pytest.approx(balanced)
    assert set(metrics) == {f"val/{name}" for name in ("loss", "acc1", "acc5", "balanced_acc", "macro_f1", "ece")}
    assert json.loads((tmp_path / "out" / "metrics.json").read_text())["metrics"] == metrics
    assert [row["images"] for row in rows_of(tmp_path / "out" / "val_classes.csv")] == ["5", "7", "3"]
    assert "2 per class, averaged; the first: a photo of a golden retriever." in capsys.readouterr().out


@pytest.mark.slow
@pytest.mark.exhaustive  # tests/test_processes.py evaluates on three
def test_two_processes_find_the_same(towers, photos, tmp_path):
    overrides = [f"zero_shot={towers}", *on(photos), "tta=flip", "data.eval_batch_size=4"]
    metrics = evaluated(tmp_path / "one", *overrides)
    call_apart(tmp_path, "eval", "hardware=ddp_cpu", *overrides, f"hydra.run.dir={tmp_path / 'two'}")
    assert json.loads((tmp_path / "two" / "metrics.json").read_text())["metrics"] == pytest.approx(metrics, abs=1e-5)


@pytest.mark.parametrize("resize_mode", ["shortest", "squash"])
def test_images_are_prepared_as_by_open_clip(tmp_path, photos, resize_mode):
    name = save(tmp_path / "towers", resize_mode=resize_mode)
    data = load(open_image_text(name, None), {"name": "folder", "root": str(photos), "val_split": 1}, False)
    images, _ = data.batch_transform(data.val_images(range(15)), False, torch.float32)
    _, _, theirs = open_clip.create_model_and_transforms(name)
    theirs = torch.stack([theirs(read_by_pil(data.source.val.read(index))) for index in range(15)])
    assert (images - theirs).abs().mean() < 0.1 / 255 / 0.2  # grey levels, as in tests/data/formats/test_decode.py


def test_other_sizes_of_images_resample_the_positions(towers):
    data = open_image_text(towers, None, [48, 32]).data
    assert data["img_size"] == [48, 32]
    module, _ = classify(open_image_text(towers, None, 64), ["cat", "dog"], None, CPU)
    assert module(torch.randn(2, 3, 64, 64)).shape == (2, 2)


def test_cost_is_that_of_the_image_tower(towers):
    model = open_image_text(towers, None)
    expected = sum(parameter.numel() for parameter in model.model.visual.parameters())
    module, _ = classify(model, ["cat", "dog"], None, CPU)
    cost = count(module.model, 32)
    assert cost.params == expected
    assert cost.macs > cost.macs_paper > 0


def test_similarities_are_not_rounded_to_bfloat16(towers):
    module, _ = classify(open_image_text(towers, None), ["cat", "dog"], None, CPU)
    with torch.autocast("cpu", torch.bfloat16), torch.no_grad():
        logits = module(torch.randn(8, 3, 32, 32))
    assert not torch.equal(logits, logits.bfloat16().float())


# Names of classes


def test_classes_are_called_as_by_the_authors_of_clip():
    # The first synset is n01440764 "tench, Tinca tinca", the last n15075141 "toilet tissue, toilet paper, …".
    assert words_of(["n15075141", "n01440764 tench", "n02012849", "n03126707"]) == [
        "toilet paper",
        "tench",
        "crane bird",
        "construction crane",
    ]
    # Of ImageNet-22k alone, of no list, and without a WordNet ID.
    assert words_of(["n02119022", "n99999999", "sea_lion", "cock"]) == ["red fox", "n99999999", "sea lion", "cock"]
    from timm.data import ImageNetInfo

    described = ImageNetInfo("imagenet-1k").label_descriptions()
    described[134], described[517] = "crane", "crane2"  # as the Hugging Face Hub calls them
    assert words_of(described[::-1]) == list(open_clip.IMAGENET_CLASSNAMES[::-1])


def test_numbers_need_templates_that_say_what_they_are(towers, tmp_path):
    with pytest.raises(ValueError, match=r"called 0, 1, 2, …, .* .templates=\[\"a photo of the number \{\}.\"\]"):
        evaluated(tmp_path / "out", f"zero_shot={towers}", "data.name=digits")
    assert not (tmp_path / "out").exists()
    templates = 'templates=["a photo of the number {}."]'
    assert "val/acc1" in evaluated(tmp_path / "out", f"zero_shot={towers}", "data.name=digits", templates)


# Where the weights are


@pytest.fixture
def registered(tmp_path, monkeypatch):
    """A model with one tag of weights, which were trained with the quick GELU; returns the file of these."""
    save(tmp_path / "towers")
    file = tmp_path / "towers" / "open_clip_pytorch_model.bin"
    monkeypatch.setitem(open_clip.factory._MODEL_CONFIGS, "Tiny-B-8", CONFIG)
    tags = {"quick_one": {"file": str(file), "quick_gelu": True, **PREPROCESSING}}
    monkeypatch.setitem(open_clip.pretrained._PRETRAINED, "Tiny-B-8", tags)
    return file


def test_weights_of_a_tag_keep_their_activation(registered, caplog):
    caplog.set_level(logging.INFO)
    tagged, plain = (open_image_text("Tiny-B-8", weights) for weights in ("quick-one", str(registered)))
    assert (tagged.owner, tagged.data["mean"]) == ("Tiny-B-8 quick-one", [0.4, 0.5, 0.6])
    activations = [type(one.model.transformer.resblocks[0].mlp.gelu).__name__ for one in (tagged, plain)]
    assert activations == ["QuickGELU", "GELU"]
    weights = torch.load(registered, weights_only=True)
    assert all(torch.equal(weights[name], value) for name, value in plain.model.state_dict().items())
    assert not caplog.records


@pytest.mark.parametrize(
    ("name", "weights", "message"),
    [
        ("Tiny-B8", "quick_one", r"zero_shot=Tiny-B8 is not a model of OpenCLIP, did you mean Tiny-B-8"),
        ("Tiny-B-8", None, r"zero_shot=Tiny-B-8 has no weights: set pretrained=FILE, or one of quick_one"),
        ("Tiny-B-8", "slow", r"has no weights slow, nor is that a file: set pretrained=FILE, or one of quick_one"),
        ("Tiny-B-8", "FILE", r"zero_shot=Tiny-B-8 pretrained=.*other.bin cannot be loaded: .* Missing key"),
        ("local-dir:/nowhere", None, r"zero_shot=local-dir:/nowhere cannot be loaded: .*/nowhere"),
    ],
)
def test_unknown_models_and_weights_are_one_line(registered, name, weights, message):
    if weights == "FILE":
        weights = str(registered.with_name("other.bin"))
        torch.save({"weight": torch.zeros(1)}, weights)
    with pytest.raises(ValueError, match=message) as caught:
        open_image_text(name, weights)
    assert "\n" not in str(caught.value)


def test_images_that_we_cannot_prepare_are_refused(tmp_path):
    with pytest.raises(ValueError, match="resized by longest, which cannot be computed here"):
        open_image_text(save(tmp_path / "towers", resize_mode="longest"), None)


def test_weights_come_from_the_hub(towers, tmp_path):
    folder = Path(towers.partition(":")[2])
    with serving(tmp_path) as hub:
        files = {name: (folder / name).read_bytes() for name in ["open_clip_config.json"]}
        hub.models["owner/clip"] = {"files": files}
        with pytest.raises(ValueError, match="hf-hub:owner/clip cannot be loaded: Required pretrained weights"):
            open_image_text("hf-hub:owner/clip", None)
        files["open_clip_pytorch_model.bin"] = (folder / "open_clip_pytorch_model.bin").read_bytes()
        found, expected = open_image_text("hf-hub:owner/clip", None), open_image_text(towers, None)
    assert found.data == expected.data
    for name, value in expected.model.state_dict().items():
        assert torch.equal(found.model.state_dict()[name], value)


@pytest.mark.parametrize(
    ("name", "weights"),
    [("ViT-B-32", "laion2b_s34b_b79k"), ("ViT-B-16-SigLIP", "webli"), ("hf-hub:owner/clip", None)],
)
def test_hub_out_of_reach_is_one_line_at_once(monkeypatch, tmp_path, name, weights):
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_CACHE", str(tmp_path))
    monkeypatch.setattr("fvit.models.hub.hf_hub_url", lambda *args, **options: "http://127.0.0.1:9/file")
    start = time.monotonic()
    with pytest.raises(ValueError, match=r"cannot be loaded: .*not in the cache .* cannot be reached") as caught:
        open_image_text(name, weights)
    assert "\n" not in str(caught.value)
    assert time.monotonic() - start < 10


@pytest.mark.parametrize(
    ("overrides", "message"),
    [
        (["ckpt_path=a"], "ckpt_path=a has no effect with zero_shot=local-dir:a: leave one of them out"),
        (["pretrained=a"], "pretrained=a has no effect with zero_shot=local-dir:a"),
        (["probe=knn"], "probe=knn has no effect with zero_shot=local-dir:a"),
        (["templates=[a photo]"], "templates: 'a photo' must contain {} once, .*: 'a photo of a {}.'"),
        (['templates=["{} {b}"]'], "must contain {} once"),
        (["templates=[]"], "templates.* at least 1 item"),
        (["zero_shot=null", "pretrained=a", 'templates=["a {}"]'], "templates has no effect without zero_shot=MODEL"),
    ],
)
def test_keys_that_exclude_each_other(tmp_path, overrides, message):
    with pytest.raises(ConfigError, match=message):
        evaluated(tmp_path, "zero_shot=local-dir:a", *overrides)
