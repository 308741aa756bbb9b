"""fvit-export: a checkpoint as files that others read."""

import json
import logging
import os
import shutil
from pathlib import Path
from typing import Any

from fvit.config.schemas.export import Export
from fvit.launch import cli


def main() -> None:
    """The command line."""
    cli.run("export", export, Export)


def export(config: dict[str, Any]) -> dict[str, float]:
    """Write the checkpoint into a new folder: the model, how images are prepared for it, and a model card.

    The folder is there whole or not at all: what is written is read again and held against the checkpoint first.
    """
    # Imported here, because composing, --help and a wrong override must not wait for torch.
    from fvit.cost import count
    from fvit.launch.console import print_facts
    from fvit.models.export import FORMATS
    from fvit.models.export.card import Facts, card
    from fvit.models.export.timm_folder import needs_fvit
    from fvit.training import checkpoint

    # They tell of every node that is folded or not, and of every file that is opened.
    for name in ("onnxscript", "onnx_ir", "timm"):
        logging.getLogger(name).setLevel(logging.WARNING)
    form, out = config["format"], check_new(Path(config["out"]).expanduser())
    path = checkpoint.find(config["ckpt_path"])
    content = checkpoint.read(path)
    subject = load(path, content)
    out.parent.mkdir(parents=True, exist_ok=True)
    partial = out.with_name(f".{out.name}.{os.getpid()}.partial")
    partial.mkdir()
    try:
        difference = FORMATS[form](subject, partial)
        cost = count(subject.model, subject.img_size)
        asks = form in ("safetensors", "timm") and needs_fvit(subject, form)
        facts = Facts(form, str(out), content, subject.classes, cost.params, cost.macs, difference, asks)
        (partial / "README.md").write_text(card(facts), encoding="utf-8")
        if form in ("onnx", "torch_export"):
            told = {"img_size": subject.img_size, **subject.preprocessing, "classes": subject.classes}
            (partial / "preprocessing.json").write_text(json.dumps(told, indent=2), encoding="utf-8")
        if out.exists():
            out.rmdir()
        partial.rename(out)
    except BaseException:
        shutil.rmtree(partial)
        raise
    size = sum(file.stat().st_size for file in out.iterdir()) / 1e6
    loaded = "timm.create_model('local-dir:" + str(out) + "', pretrained=True)"
    facts = [
        ("folder", f"{out}: {', '.join(sorted(file.name for file in out.iterdir()))}, {size:.3g} MB"),
        (
            "checked",
            f"its logits differ from the checkpoint's by {difference:.1e} at most, on 1, 2 and 5 random images",
        ),
        ("cost", f"{cost.params / 1e6:.2f} M parameters, {cost.macs / 1e6:.4g} M MACs an image"),
        *([("load it", f"import fvit, then {loaded}" if asks else loaded)] if form in ("safetensors", "timm") else []),
    ]
    print_facts("Exported", facts)
    return {}


def check_new(out: Path) -> Path:
    """Refuse a folder that holds something.

    Raises:
        ValueError: it does, or is no folder, or the current one.
    """
    if not out.name:
        raise ValueError(f"out={out} has no name; name a new folder")
    if out.exists() and (not out.is_dir() or any(out.iterdir())):
        raise ValueError(f"out={out} is there already; name a new folder, or remove that one")
    return out


def load(path: Path, content: dict[str, Any]) -> Any:
    """The checkpoint's model, ready for export."""
    from fvit.data.inference import display_names
    from fvit.models.export import Subject
    from fvit.training import Classifier

    module = Classifier.load_from_checkpoint(path, map_location="cpu", weights_only=True)
    trained, data = module.hparams, content["datamodule_hyper_parameters"]
    preprocessing = {key: data[key] for key in ("mean", "std", "crop_pct", "interpolation")}
    names = display_names(content.get("classes"), module.num_outputs)
    return Subject.of(module.model, trained["model"], trained["img_size"], names, preprocessing)


if __name__ == "__main__":
    main()
