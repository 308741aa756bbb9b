"""The model card that lies beside an exported model."""

import json
from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

import fvit

_LOADING = {
    "onnx": """import onnxruntime
session = onnxruntime.InferenceSession("model.onnx")
(logits,) = session.run(None, {{"images": images}})  # float32 [any number, 3, {side}, {side}]""",
    "torch_export": """import torch
model = torch.export.load("model.pt2").module()
logits = model(images)  # float32 [any number, 3, {side}, {side}]""",
    "safetensors": """{fvit}import timm
model = timm.create_model("local-dir:{folder}", pretrained=True).eval()
logits = model(images)  # float32 [any number, 3, {side}, {side}]""",
}
_LOADING["timm"] = _LOADING["safetensors"]


class Facts(NamedTuple):
    """What there is to say of an export.

    Attributes:
        format: ``onnx``, ``torch_export``, ``safetensors`` or ``timm``.
        folder: where it lies.
        content: of the checkpoint.
        classes: names of the outputs.
        params: number of parameters.
        macs: of one image.
        difference: the largest of the logits that was found.
        needs_fvit: whether what loads it must import fvit.
    """

    format: str
    folder: str
    content: Mapping[str, Any]
    classes: Sequence[str]
    params: int
    macs: int
    difference: float
    needs_fvit: bool


def card(facts: Facts) -> str:
    """README.md: how to load the model, what it expects, how it was trained, what it reached, what is not known."""
    trained, data = facts.content["hyper_parameters"], facts.content["datamodule_hyper_parameters"]
    model = trained["model"]
    side, name = data["img_size"], model["name"]
    attention = model.get("attention", {"name": "native"})
    loading = _LOADING[facts.format].format(
        side=side, folder=facts.folder, fvit="import fvit  # makes timm know the model\n" if facts.needs_fvit else ""
    )
    averaged = "averaging_state" in facts.content
    metrics = {name: value for name, value in facts.content.get("metrics", {}).items() if name.startswith("val/")}
    recipe = {
        "data": f"{data['name']}, {len(facts.classes)} classes, images of {side} px",
        "augmentation": _short(data.get("augment")),
        "batch": f"{data['batch_size'] * data['accumulate']} images a device",
        "length": f"{facts.content['epoch'] + 1} epochs, {facts.content['global_step']:,} updates",
        **{part: _short(trained[part]) for part in ("optimizer", "scheduler", "loss")},
        **({"distillation": _short(trained["distillation"])} if trained.get("distillation") else {}),
        "weights": "averaged over training (EMA)" if averaged else "of the last update before they were saved",
        "seed": str(data["seed"]),
    }
    preprocessing = {key: data[key] for key in ("crop_pct", "interpolation", "mean", "std")}
    lines = [
        f"# {name} with {attention['name']} attention",
        "",
        f"An image classifier, exported by fvit {fvit.__version__} as `{facts.format}`.",
        "",
        f"```python\n{loading}\n```",
        "",
        f"Images are resized so that their shorter side is {side} px divided by `crop_pct`, cut to their centre of "
        f"{side} × {side} px, scaled to [0, 1] and normalised: {_short(preprocessing)}.",
        f"The classes, in the order of the logits: {_listed(facts.classes)}.",
        "",
        "## Model",
        "",
        *_table({"model": name, "attention": _short(attention), **_shape(model)}),
        "",
        f"{facts.params:,} parameters, {facts.macs:,} multiply-accumulates an image, counted product by product.",
        "",
        "## Recipe",
        "",
        *_table(recipe),
        "",
        "## Metrics",
        "",
        *_measured(metrics),
        "",
        "## Limits",
        "",
        f"* The logits were compared with the checkpoint's on 1, 2 and 5 random images: they differ by "
        f"{facts.difference:.1e} at most, as a share of the largest.",
        f"* It takes images of {side} × {side} px, and gives every image one of the classes above, whatever it shows.",
        "* Nothing is known of its accuracy on images of another kind than those it was trained on, nor of what is "
        "unfair or wrong in these.",
        *(["* Loading it runs code of fvit, which must be installed."] if facts.needs_fvit else []),
        *(
            [f"* Its attention is code of yours, `{attention['name']}`, which must be importable as well."]
            if ":" in attention["name"]
            else []
        ),
    ]
    return "\n".join(lines) + "\n"


def _measured(metrics: Mapping[str, float]) -> list[str]:
    if not metrics:
        return ["None were recorded."]
    where = "Measured on the validation images of the data above when the checkpoint was saved: one run, one seed."
    return [*_table({name: f"{value:.6g}" for name, value in metrics.items()}), "", where]


def _shape(model: Mapping[str, Any]) -> dict[str, str]:
    keys = ("patch_size", "embed_dim", "depth", "num_heads", "mlp_ratio", "class_token", "global_pool", "blocks")
    return {key: _short(model[key]) for key in keys if model.get(key) is not None}


def _table(rows: Mapping[str, str]) -> list[str]:
    return [
        "| | |",
        "|---|---|",
        *(f"| {name} | {value.replace('|', chr(92) + '|')} |" for name, value in rows.items()),
    ]


def _short(value: Any) -> str:
    """A value in a line, without what is not set."""
    if isinstance(value, Mapping):
        return ", ".join(f"{key} {_short(item)}" for key, item in value.items() if item is not None) or "none"
    return value if isinstance(value, str) else json.dumps(value, ensure_ascii=False)


def _listed(classes: Sequence[str], most: int = 20) -> str:
    return ", ".join(classes[:most]) + (f", … ({len(classes):,} in all)" if len(classes) > most else "")
