"""The model card, README.md, of an exported model."""

import json
from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

from timm.layers import to_2tuple

import fvit

_LOADING = {
    "onnx": """import onnxruntime
session = onnxruntime.InferenceSession("model.onnx")
(logits,) = session.run(None, {{"images": images}})  # float32 [B, 3, {rows}, {columns}]""",
    "torch_export": """import torch
model = torch.export.load("model.pt2").module()
logits = model(images)  # float32 [B, 3, {rows}, {columns}]""",
    "safetensors": """{fvit}import timm
model = timm.create_model("local-dir:{folder}", pretrained=True).eval()
logits = model(images)  # float32 [B, 3, {rows}, {columns}]""",
}
_LOADING["timm"] = _LOADING["safetensors"]


class CardContent(NamedTuple):
    """What the card describes.

    Attributes:
        format: ``onnx``, ``torch_export``, ``safetensors`` or ``timm``.
        folder: the exported folder.
        content: the content of the checkpoint.
        classes: names of the outputs.
        params: number of parameters.
        macs: MACs per image.
        difference: the largest relative difference of the logits from the checkpoint's.
        needs_fvit: whether loading needs ``import fvit.models``.
    """

    format: str
    folder: str
    content: Mapping[str, Any]
    classes: Sequence[str]
    params: int
    macs: int
    difference: float
    needs_fvit: bool


def card(export: CardContent) -> str:
    """README.md: how to load the model, its preprocessing, training recipe, metrics and limits."""
    trained, data = export.content["hyper_parameters"], export.content["datamodule_hyper_parameters"]
    model = trained["model"]
    (rows, columns), name = to_2tuple(data["img_size"]), model["name"]
    attention = model.get("attention", {"name": "native"})
    loading = _LOADING[export.format].format(
        rows=rows,
        columns=columns,
        folder=export.folder,
        fvit="import fvit.models  # registers the model with timm\n" if export.needs_fvit else "",
    )
    averaged = "averaging_state" in export.content
    metrics = {name: value for name, value in export.content.get("metrics", {}).items() if name.startswith("val/")}
    recipe = {
        "data": f"{data['name']}, {len(export.classes)} classes, images of {rows} × {columns} px",
        "augmentation": _short(data.get("augment")),
        "batch": f"{data['batch_size'] * data['accumulate']} images per device",
        "length": f"{export.content['epoch'] + 1} epochs, {export.content['global_step']:,} updates",
        **{part: _short(trained[part]) for part in ("optimizer", "scheduler", "loss")},
        **({"distillation": _short(trained["distillation"])} if trained.get("distillation") else {}),
        "weights": "averaged over training (EMA)" if averaged else "of the last optimizer step before saving",
        "seed": str(data["seed"]),
    }
    preprocessing = {key: data[key] for key in ("crop_pct", "interpolation", "mean", "std")}
    lines = [
        f"# {name} with {attention['name']} attention",
        "",
        f"An image classifier, exported by fvit {fvit.__version__} as `{export.format}`.",
        "",
        f"```python\n{loading}\n```",
        "",
        f"Resize an image until it just covers {rows} × {columns} px (height × width) divided by `crop_pct`, crop the "
        f"central {rows} × {columns} px, scale to [0, 1] and normalise: {_short(preprocessing)}.",
        f"Classes in the order of the logits: {_abbreviate(export.classes)}.",
        "",
        "## Model",
        "",
        *_table({"model": name, "attention": _short(attention), **_shape(model)}),
        "",
        f"{export.params:,} parameters, {export.macs:,} MACs per image.",
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
        f"* Its logits were compared with the checkpoint's on 1, 2 and 5 random images; the largest difference is "
        f"{export.difference:.1e}, relative to the largest logit.",
        f"* It takes images of {rows} × {columns} px and assigns each to one of the classes above, whatever it shows.",
        "* Its accuracy on other kinds of images than its training data is unknown, and so are biases in that data.",
        *(["* Loading it runs code of fvit, which must be installed."] if export.needs_fvit else []),
        *(
            [f"* Its attention is your own code, `{attention['name']}`, which must be importable as well."]
            if ":" in attention["name"]
            else []
        ),
    ]
    return "\n".join(lines) + "\n"


def _measured(metrics: Mapping[str, float]) -> list[str]:
    if not metrics:
        return ["None were recorded."]
    where = "Measured on the validation images of the dataset above when the checkpoint was saved: one run, one seed."
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
    """A value on one line, without options that are None."""
    if isinstance(value, Mapping):
        return ", ".join(f"{key} {_short(item)}" for key, item in value.items() if item is not None) or "none"
    return value if isinstance(value, str) else json.dumps(value, ensure_ascii=False)


def _abbreviate(classes: Sequence[str], most: int = 20) -> str:
    return ", ".join(classes[:most]) + (f", … ({len(classes):,} in total)" if len(classes) > most else "")
