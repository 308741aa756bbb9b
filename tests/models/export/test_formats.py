"""Each format, written, and read by those it is meant for."""

import json
import os
import subprocess
import sys
from dataclasses import replace

import pytest
import timm
import torch

from fvit.attention import IdentityMixer, get, names
from fvit.cost import count
from fvit.models import build
from fvit.models.export import FORMATS, Subject
from tests.models.small import WINDOWED, head_for, resampling

TRAINED = dict(name="vit_tiny_patch16_224", patch_size=8, embed_dim=24, depth=2, num_heads=2)
PREPROCESSING = dict(mean=[0.4, 0.5, 0.6], std=[0.2, 0.3, 0.4], crop_pct=0.9, interpolation="bilinear")
CLASSES = ["ant", "bee", "cat", "dog", "eel"]
FOLDERS = {
    "additive": dict(attention={"name": "additive", "logits": "full", "proj": True}),
    "textbook": dict(attention={"name": "additive", "form": "textbook"}),
    "convolutions": dict(attention={"name": "focused", "conv": 3}),
    "per token": dict(attention={"name": "synthesizer"}),
    "mixed": dict(attention={"name": "mixed", "layers": ["linear", {"name": "agent", "num_agents": 4}]}),
    "one block": dict(attention={"name": "sigmoid"}, blocks="1"),
    "beit": dict(name="beit_base_patch16_224", attention={"name": "softmax"}),
    "native": dict(attention={"name": "native"}),
    "a convnet": dict(name="convnextv2_atto", attention={"name": "native"}),
    "one of ours": dict(name="fvit_tiny_patch16_224", attention={"name": "native"}),
}


class Undecided(IdentityMixer):
    """Does what no graph can hold: it looks at its tokens to choose what to do."""

    reaches_prefix = True

    def forward(self, x, attn_mask=None, is_causal=False):
        return x + x.mean(dim=1, keepdim=True) if x.sum() > 0 else x


def subject(**trained):
    options = {**TRAINED, **trained}
    if options["name"].startswith("convnext"):
        options = {key: options[key] for key in ("name", "attention")}
    if options["name"].startswith("swin"):
        options = {"name": options["name"], "attention": options["attention"], **WINDOWED}
        options = {key: options[key] for key in options if key not in ("img_size", "num_classes")}
    attention = options.pop("attention")
    classes = dict(img_size=32, num_classes=5)
    torch.manual_seed(0)
    spec = None if attention["name"] == "native" else attention.get("layers", attention)
    original = build(**options, **classes, attention=spec).eval()
    for parameter in original.parameters():
        torch.nn.init.normal_(parameter, std=0.2)
    saved = {**options, "attention": attention, "pretrained": False, "init_from": None, "keep": []}
    return Subject.of(original, saved, 32, CLASSES, PREPROCESSING)


def of(attention):
    options = head_for(attention) if get(attention).takes_prefix else dict(class_token=False, global_pool="avg")
    return subject(attention={"name": attention}, **options)


def logits(model, batch=7):
    images = torch.randn(batch, 3, 32, 32, generator=torch.Generator().manual_seed(99))
    with torch.no_grad():
        return model(images)


def answer_of(form, folder):
    """What the file says, opened as README.md tells."""
    if form == "torch_export":
        return logits(torch.export.load(folder / "model.pt2").module())
    if form == "onnx":
        import onnxruntime

        session = onnxruntime.InferenceSession(folder / "model.onnx", providers=["CPUExecutionProvider"])
        return logits(lambda images: torch.from_numpy(session.run(["logits"], {"images": images.numpy()})[0]))
    return logits(timm.create_model(f"local-dir:{folder}", pretrained=True).eval())


def _marks(name):
    """A mechanism of each kind of operations: products, SDPA, features, landmarks, convolutions, windows, FFT."""
    kinds = ("softmax", "linear", "performer", "nystrom", "mlla", "window", "gfnet", "synthesizer")
    return [pytest.mark.slow, *([] if name in kinds else [pytest.mark.exhaustive])]


@pytest.mark.parametrize(
    ("form", "attention"),
    [
        ("onnx", "additive"),
        *(("torch_export", name) for name in ("additive", "focused", "window")),
        *(pytest.param("onnx", name, marks=_marks(name)) for name in names() if name != "additive"),
    ],
)
def test_a_graph_gives_the_logits_for_any_number_of_images(tmp_path, form, attention):
    one = of(attention)
    assert FORMATS[form](one, tmp_path) < 1e-5
    torch.testing.assert_close(answer_of(form, tmp_path), logits(one.original), rtol=1e-4, atol=1e-5)


@resampling
@pytest.mark.parametrize(
    "options",
    [
        dict(attention={"name": "additive", "form": "auto"}, patch_size=4),
        dict(name="swin_tiny_patch4_window7_224", attention={"name": "softmax"}),
    ],
    ids=["folded", "windows"],
)
def test_a_program_holds_what_asks_for_the_number_of_images(tmp_path, options):
    one = subject(**options)
    if options.get("patch_size") == 4:
        assert one.model.blocks[0].attn.cheapest_form(65) == "folded"
    assert FORMATS["torch_export"](one, tmp_path) < 1e-5


@pytest.mark.slow
@pytest.mark.parametrize(("patch_size", "form"), [(8, "factored"), (4, "folded")], ids=["17 tokens", "65 tokens"])
def test_additive_attention_is_folded_in_onnx_where_tokens_outnumber_channels(tmp_path, patch_size, form):
    import onnx

    one = subject(attention={"name": "additive"}, patch_size=patch_size)
    assert one.model.blocks[0].attn.cheapest_form((32 // patch_size) ** 2 + 1) == form
    assert FORMATS["onnx"](one, tmp_path) < 1e-5
    torch.testing.assert_close(answer_of("onnx", tmp_path), logits(one.original), rtol=1e-4, atol=1e-5)
    values = onnx.load(tmp_path / "model.onnx").graph.value_info
    shapes = [[size.dim_value for size in value.type.tensor_type.shape.dim] for value in values]
    # Of width × width an image there is what tokens are multiplied by, and only in the folded form.
    assert ([24, 24] in [shape[1:] for shape in shapes if len(shape) == 3]) == (form == "folded")


def test_a_graph_of_one_number_of_images_is_refused():
    one = of("additive")

    def fixed(images):
        if len(images) != 1:
            raise RuntimeError("Got 2, expected 1")
        return one.original(images)

    with pytest.raises(
        ValueError, match=r"cannot be exported as a graph for any number of images: Got 2, expected 1\."
    ):
        one.check(fixed)


@resampling
@pytest.mark.parametrize("kind", FOLDERS)
def test_timm_loads_the_folder(tmp_path, kind):
    one = subject(**FOLDERS[kind])
    assert FORMATS["safetensors"](one, tmp_path) < 1e-5
    assert sorted(path.name for path in tmp_path.iterdir()) == ["config.json", "model.safetensors"]
    model = timm.create_model(f"local-dir:{tmp_path}", pretrained=True).eval()
    torch.testing.assert_close(logits(model), logits(one.original), rtol=1e-4, atol=1e-5)
    config = json.loads((tmp_path / "config.json").read_text())
    own = FOLDERS[kind]["attention"]["name"] == "native"
    assert config["architecture"] == (FOLDERS[kind].get("name", TRAINED["name"]) if own else "exchanged")
    data = timm.data.resolve_model_data_config(model)
    assert {key: data[key] for key in ("input_size", "crop_pct", "interpolation")} == {
        "input_size": (3, 32, 32),
        "crop_pct": 0.9,
        "interpolation": "bilinear",
    }
    assert list(data["mean"]) == PREPROCESSING["mean"]
    assert list(model.pretrained_cfg["label_names"]) == CLASSES
    assert model.pretrained_cfg["tag"] == "fvit", "and not that of weights that are not these"


def test_a_loaded_model_takes_another_head(tmp_path):
    FORMATS["safetensors"](of("additive"), tmp_path)
    model = timm.create_model(f"local-dir:{tmp_path}", pretrained=True, num_classes=3)
    assert logits(model).shape == (7, 3)
    trained = timm.create_model(f"local-dir:{tmp_path}", pretrained=True)
    assert torch.equal(model.blocks[0].attn.q.weight, trained.blocks[0].attn.q.weight)


@pytest.mark.slow
def test_a_model_of_timm_s_is_loaded_where_there_is_no_fvit(tmp_path):
    one = subject(attention={"name": "softmax"}, qk_norm=True)
    assert FORMATS["timm"](one, tmp_path) < 1e-5
    torch.save(logits(one.original), tmp_path / "expected.pt")
    code = (
        "import sys; sys.modules['fvit'] = None\n"
        "import timm, torch\n"
        "model = timm.create_model('local-dir:.', pretrained=True).eval()\n"
        "images = torch.randn(7, 3, 32, 32, generator=torch.Generator().manual_seed(99))\n"
        "with torch.no_grad():\n"
        "    torch.testing.assert_close(model(images), torch.load('expected.pt'), rtol=1e-4, atol=1e-5)\n"
    )
    environment = {**os.environ, "OMP_NUM_THREADS": "1"}
    done = subprocess.run(
        [sys.executable, "-c", code], cwd=tmp_path, capture_output=True, text=True, timeout=120, env=environment
    )
    assert done.returncode == 0, done.stderr


@resampling
@pytest.mark.parametrize(
    ("options", "message"),
    [
        (FOLDERS["additive"], "not for vit_tiny_patch16_224 with additive attention; format=safetensors writes what"),
        (FOLDERS["mixed"], "with mixed attention"),
        (FOLDERS["beit"], "not for beit_base_patch16_224 with softmax attention"),
        (FOLDERS["one of ours"], "fvit_tiny_patch16_224 is one of fvit's; format=safetensors writes what timm loads"),
        # The same weights, and other logits.
        (dict(attention={"name": "linear"}), "with linear attention"),
    ],
)
def test_what_timm_has_not_by_itself_is_refused(tmp_path, options, message):
    with pytest.raises(ValueError, match=message):
        FORMATS["timm"](subject(**options), tmp_path)


@pytest.mark.parametrize("form", ["onnx", "torch_export"])
def test_a_mechanism_that_no_graph_can_hold_is_refused_by_name(tmp_path, form):
    one = subject(attention={"name": f"{__name__}:Undecided"})
    message = rf"vit_tiny_patch16_224 with {__name__}:Undecided attention cannot be exported as .*safetensors takes"
    with pytest.raises(ValueError, match=message):
        FORMATS[form](one, tmp_path)
    assert FORMATS["safetensors"](one, tmp_path) < 1e-5


@pytest.mark.parametrize("form", [pytest.param("onnx", marks=pytest.mark.slow), "torch_export", "safetensors"])
def test_a_file_that_disagrees_is_refused(tmp_path, form):
    one, other = of("additive"), of("additive")
    for parameter in other.original.parameters():
        parameter.mul_(1.001)
    with pytest.raises(
        ValueError, match=r"disagrees with the checkpoint on 1 random images: its logits differ by .*e-0"
    ):
        FORMATS[form](replace(one, original=other.original), tmp_path)


def test_what_is_not_a_number_disagrees():
    one = of("additive")
    with pytest.raises(ValueError, match="disagrees"):
        one.check(lambda images: one.original(images) * float("nan"))
    with pytest.raises(ValueError, match=r"gives logits \[1, 4\] for 1 images, and the checkpoint \[1, 5\]"):
        one.check(lambda images: one.original(images)[:, :4])


def test_additive_attention_is_evaluated_in_its_cheapest_form():
    one = subject(attention={"name": "additive", "form": "textbook"}, class_token=False, global_pool="avg")
    cheapest = subject(attention={"name": "additive"}, class_token=False, global_pool="avg")
    assert count(one.model, 32).macs == count(cheapest.model, 32).macs < count(one.original, 32).macs
    torch.testing.assert_close(logits(one.model), logits(one.original), rtol=1e-4, atol=1e-5)
    assert one.arguments["attention"]["form"] == "auto"
