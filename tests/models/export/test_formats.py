"""Each format, written and read back by the software it is for."""

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
from fvit.models.export import FORMATS, ExportModel
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
    """Has data-dependent control flow, which cannot be traced."""

    reaches_prefix = True

    def forward(self, x, attn_mask=None, is_causal=False):
        return x + x.mean(dim=1, keepdim=True) if x.sum() > 0 else x


def export_model(**trained):
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
    return ExportModel.of(original, saved, 32, CLASSES, PREPROCESSING)


def exchanged_vit(attention):
    options = head_for(attention) if get(attention).takes_prefix else dict(class_token=False, global_pool="avg")
    return export_model(attention={"name": attention}, **options)


def logits(model, batch=7):
    images = torch.randn(batch, 3, 32, 32, generator=torch.Generator().manual_seed(99))
    with torch.no_grad():
        return model(images)


def logits_of(form, folder):
    """Logits of the file, loaded as README.md describes."""
    if form == "torch_export":
        return logits(torch.export.load(folder / "model.pt2").module())
    if form == "onnx":
        import onnxruntime

        session = onnxruntime.InferenceSession(folder / "model.onnx", providers=["CPUExecutionProvider"])
        return logits(lambda images: torch.from_numpy(session.run(["logits"], {"images": images.numpy()})[0]))
    return logits(timm.create_model(f"local-dir:{folder}", pretrained=True).eval())


def _marks(name):
    """One mechanism per kind of operation: SDPA, convolutions, FFT, a learned map; torch_export has windows."""
    kinds = ("softmax", "mlla", "gfnet", "synthesizer")
    return [pytest.mark.slow, *([] if name in kinds else [pytest.mark.exhaustive])]


@pytest.mark.parametrize(
    ("form", "attention"),
    [
        pytest.param("onnx", "additive", marks=pytest.mark.slow),
        pytest.param("torch_export", "window", marks=pytest.mark.slow),
        pytest.param("torch_export", "additive", marks=pytest.mark.slow),
        pytest.param("torch_export", "focused", marks=[pytest.mark.slow, pytest.mark.exhaustive]),
        *(pytest.param("onnx", name, marks=_marks(name)) for name in names() if name != "additive"),
    ],
)
def test_graph_gives_the_same_logits_for_any_batch_size(tmp_path, form, attention):
    one = exchanged_vit(attention)
    assert FORMATS[form](one, tmp_path) < 1e-5
    torch.testing.assert_close(logits_of(form, tmp_path), logits(one.original), rtol=1e-4, atol=1e-5)


@pytest.mark.slow
@resampling
@pytest.mark.parametrize(
    "options",
    [
        dict(attention={"name": "additive", "form": "auto"}, patch_size=4),
        dict(name="swin_tiny_patch4_window7_224", attention={"name": "softmax"}),
    ],
    ids=["folded", "windows"],
)
def test_program_contains_operations_that_depend_on_the_batch_size(tmp_path, options):
    one = export_model(**options)
    if options.get("patch_size") == 4:
        assert one.model.blocks[0].attn.fastest_form(65) == "folded"
    assert FORMATS["torch_export"](one, tmp_path) < 1e-5


@pytest.mark.slow
@pytest.mark.parametrize(
    ("patch_size", "form"),
    [pytest.param(8, "factored", marks=pytest.mark.exhaustive), (4, "folded")],
    ids=["17 tokens", "65 tokens"],
)
def test_additive_attention_is_folded_in_onnx_if_tokens_outnumber_channels(tmp_path, patch_size, form):
    import onnx

    one = export_model(attention={"name": "additive"}, patch_size=patch_size)
    assert one.model.blocks[0].attn.fastest_form((32 // patch_size) ** 2 + 1) == form
    assert FORMATS["onnx"](one, tmp_path) < 1e-5
    torch.testing.assert_close(logits_of("onnx", tmp_path), logits(one.original), rtol=1e-4, atol=1e-5)
    values = onnx.load(tmp_path / "model.onnx").graph.value_info
    shapes = [[size.dim_value for size in value.type.tensor_type.shape.dim] for value in values]
    # A width × width matrix per image exists only in the folded form.
    assert ([24, 24] in [shape[1:] for shape in shapes if len(shape) == 3]) == (form == "folded")


def test_graph_of_a_fixed_batch_size_is_rejected():
    one = exchanged_vit("additive")

    def fixed(images):
        if len(images) != 1:
            raise RuntimeError("Got 2, expected 1")
        return one.original(images)

    with pytest.raises(ValueError, match=r"cannot be exported as a graph for any batch size: Got 2, expected 1\."):
        one.check(fixed)


@resampling
@pytest.mark.parametrize("kind", FOLDERS)
def test_timm_loads_the_folder(tmp_path, kind):
    one = export_model(**FOLDERS[kind])
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
    assert model.pretrained_cfg["tag"] == "fvit", "not the tag of published weights"


def test_loaded_model_takes_another_head(tmp_path):
    FORMATS["safetensors"](exchanged_vit("additive"), tmp_path)
    model = timm.create_model(f"local-dir:{tmp_path}", pretrained=True, num_classes=3)
    assert logits(model).shape == (7, 3)
    trained = timm.create_model(f"local-dir:{tmp_path}", pretrained=True)
    assert torch.equal(model.blocks[0].attn.q.weight, trained.blocks[0].attn.q.weight)


@pytest.mark.slow
def test_format_timm_loads_without_fvit(tmp_path):
    one = export_model(attention={"name": "softmax"}, qk_norm=True)
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
        (
            FOLDERS["additive"],
            "not for vit_tiny_patch16_224 with additive attention; format=safetensors writes a folder",
        ),
        (FOLDERS["mixed"], "with mixed attention"),
        (FOLDERS["beit"], "not for beit_base_patch16_224 with softmax attention"),
        (FOLDERS["one of ours"], "fvit_tiny_patch16_224 is one of fvit's; format=safetensors writes"),
        # The same weights but other logits.
        (dict(attention={"name": "linear"}), "with linear attention"),
    ],
)
def test_format_timm_rejects_models_that_timm_lacks(tmp_path, options, message):
    with pytest.raises(ValueError, match=message):
        FORMATS["timm"](export_model(**options), tmp_path)


@pytest.mark.parametrize("form", ["onnx", "torch_export"])
@pytest.mark.slow
def test_mechanism_that_cannot_be_traced_is_rejected_by_name(tmp_path, form):
    one = export_model(attention={"name": f"{__name__}:Undecided"})
    message = rf"vit_tiny_patch16_224 with {__name__}:Undecided attention cannot be exported as .*safetensors works for"
    with pytest.raises(ValueError, match=message):
        FORMATS[form](one, tmp_path)
    assert FORMATS["safetensors"](one, tmp_path) < 1e-5


@pytest.mark.parametrize(
    "form", [*(pytest.param(form, marks=pytest.mark.slow) for form in ("onnx", "torch_export")), "safetensors"]
)
def test_file_that_disagrees_is_rejected(tmp_path, form):
    one, other = exchanged_vit("additive"), exchanged_vit("additive")
    for parameter in other.original.parameters():
        parameter.mul_(1.001)
    with pytest.raises(
        ValueError, match=r"disagrees with the checkpoint on 1 random images: its logits differ by .*e-0"
    ):
        FORMATS[form](replace(one, original=other.original), tmp_path)


def test_nan_and_wrong_shapes_disagree():
    one = exchanged_vit("additive")
    with pytest.raises(ValueError, match="disagrees"):
        one.check(lambda images: one.original(images) * float("nan"))
    with pytest.raises(ValueError, match=r"gives logits \[1, 4\] for 1 images, and the checkpoint \[1, 5\]"):
        one.check(lambda images: one.original(images)[:, :4])


def test_additive_attention_is_evaluated_in_its_fastest_form():
    one = export_model(attention={"name": "additive", "form": "textbook"}, class_token=False, global_pool="avg")
    cheapest = export_model(attention={"name": "additive"}, class_token=False, global_pool="avg")
    assert count(one.model, 32).macs == count(cheapest.model, 32).macs < count(one.original, 32).macs
    torch.testing.assert_close(logits(one.model), logits(one.original), rtol=1e-4, atol=1e-5)
    assert one.arguments["attention"]["form"] == "auto"
