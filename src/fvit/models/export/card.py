"""The model card, README.md, of an exported model."""

import json
from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

from timm.layers import to_2tuple

import fvit

# Where a hub's page looks for how to load a model.
_LIBRARIES = {"onnx": "onnx", "torch_export": "pytorch", "safetensors": "timm", "timm": "timm"}
_LOADING = {
    "onnx": """import onnxruntime
session = onnxruntime.InferenceSession("model.onnx")
(logits,) = session.run(None, {{"images": images}})  # float32 [B, 3, {rows}, {columns}]""",
    "torch_export": """import torch
model = torch.export.load("model.pt2").module()
logits = model(images)  # float32 [B, 3, {rows}, {columns}]""",
    "safetensors": """{fvit}import timm
model = timm.create_model({source}, pretrained=True).eval()
logits = model(images)  # float32 [B, 3, {rows}, {columns}]
# With fvit: model, transform, classes = fvit.load({source})""",
}
_LOADING["timm"] = _LOADING["safetensors"]


class CardContent(NamedTuple):
    """What the card describes.

    Attributes:
        format: ``onnx``, ``torch_export``, ``safetensors`` or ``timm``.
        source: timm's name of the model, ``local-dir:FOLDER`` or ``hf-hub:USER/NAME``.
        content: the content of the checkpoint.
        classes: names of the outputs.
        params: number of parameters.
        macs: MACs per image.
        difference: the largest relative difference of the logits from the checkpoint's.
        needs_fvit: whether loading needs ``import fvit.models``.
    """

    format: str
    source: str
    content: Mapping[str, Any]
    classes: Sequence[str]
    params: int
    macs: int
    difference: float
    needs_fvit: bool


def card(export: CardContent) -> str:
    """README.md: the hub's metadata, how to load the model, its preprocessing, training recipe, metrics and limits."""
    trained, data = export.content["hyper_parameters"], export.content["datamodule_hyper_parameters"]
    model = trained["model"]
    (rows, columns), name = to_2tuple(data["img_size"]), model["name"]
    attention = model.get("attention", {"name": "native"})
    loading = _LOADING[export.format].format(
        rows=rows,
        columns=columns,
        source=json.dumps(export.source, ensure_ascii=False),
        fvit="import fvit.models  # registers the model with timm\n" if export.needs_fvit else "",
    )
    averaged = "averaging_state" in export.content
    metrics = {name: value for name, value in export.content.get("metrics", {}).items() if name.startswith("val/")}
    recipe = {
        "data": f"{_source_name(data)}, {len(export.classes)} classes, images of {rows} × {columns} px",
        "augmentation": _short(data.get("augment")),
        "batch": f"{data['batch_size'] * data['accumulate']} images per device",
        "length": f"{_count(export.content['epoch'] + 1, 'epoch')}, {_count(export.content['global_step'], 'update')}",
        **{part: _short(trained[part]) for part in ("optimizer", "scheduler", "loss")},
        **({"distillation": _short(trained["distillation"])} if trained.get("distillation") else {}),
        "weights": "averaged over training (EMA)" if averaged else "of the last optimizer step before saving",
        "seed": str(data["seed"]),
    }
    preprocessing = {key: data[key] for key in ("crop_pct", "interpolation", "mean", "std")}
    lines = [
        "---",
        _front_matter(export, f"{name}, {attention['name']}", _source_name(data), metrics),
        "---",
        "",
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


def _front_matter(export: CardContent, name: str, dataset: str, metrics: Mapping[str, float]) -> str:
    """The hub's metadata in YAML. It has no license: whoever shares the model chooses one."""
    from huggingface_hub import EvalResult, ModelCardData

    results = [
        EvalResult(
            task_type="image-classification",
            dataset_type=dataset,
            dataset_name=dataset,
            dataset_split=metric.partition("/")[0],
            metric_type="accuracy",
            metric_name=label,
            metric_value=metrics[metric],
        )
        for metric, label in (("val/acc1", "top-1 accuracy"), ("val/acc5", "top-5 accuracy"))
        if metric in metrics
    ]
    return ModelCardData(
        library_name="fvit" if export.needs_fvit else _LIBRARIES[export.format],
        pipeline_tag="image-classification",
        tags=["image-classification", "fvit", *(["timm"] if export.format in ("safetensors", "timm") else [])],
        **({"model_name": name, "eval_results": results} if results else {}),
    ).to_yaml()


def _source_name(data: Mapping[str, Any]) -> str:
    """The data source; of torch datasets the class or function."""
    return data.get("dataset") or data["name"]


def _count(number: int, noun: str) -> str:
    return f"{number:,} {noun}{'' if number == 1 else 's'}"


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
