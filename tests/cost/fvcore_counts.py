"""Write fvcore_counts.json, MACs of convolutions and linear layers as fvcore counts them: `python fvcore_counts.py`.

Needs fvcore 0.1.5, which the tests do not: it counts the operators of a traced run. So it sees ``F.linear``, too.
"""

import json
import logging
from pathlib import Path

import timm
import torch

COUNTS = Path(__file__).with_suffix(".json")
MODELS = (
    *("vit_tiny_patch16_224", "deit_tiny_distilled_patch16_224", "beit_base_patch16_224", "eva02_tiny_patch14_224"),
    *("cait_xxs24_224", "xcit_tiny_12_p16_224", "swin_tiny_patch4_window7_224", "swinv2_tiny_window8_256"),
    *("crossvit_tiny_240", "convit_tiny", "levit_128s", "mvitv2_tiny", "pvt_v2_b0", "twins_svt_small"),
    *("volo_d1_224", "mixer_s32_224", "gmlp_ti16_224", "poolformer_s12", "convnext_atto", "resnet18"),
)


def image_of(model: torch.nn.Module) -> torch.Tensor:
    """One blank image of the model's size."""
    return torch.zeros(1, *model.pretrained_cfg["input_size"])


def main() -> None:
    """Count and write."""
    from fvcore.nn import FlopCountAnalysis

    logging.getLogger("fvcore").setLevel(logging.ERROR)
    counts = {}
    for name in MODELS:
        model = timm.create_model(name).eval()
        by_operator = FlopCountAnalysis(model, image_of(model)).unsupported_ops_warnings(False).by_operator()
        counts[name] = int(by_operator["linear"] + by_operator["conv"])
    COUNTS.write_text(json.dumps(counts, indent=1) + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()
