"""fvit-export: export a checkpoint as ONNX, a torch.export program, or a directory for timm."""

import json
import logging
import os
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

import fvit
from fvit.config.schemas.export import Export
from fvit.launch import cli

if TYPE_CHECKING:
    from fvit.models.export import ExportModel


def main() -> None:
    """The command line."""
    cli.run("export", export, Export)


def export(config: dict[str, Any]) -> dict[str, float]:
    """Write the model, its preprocessing and a model card to a new directory, once its logits are checked; share it."""
    # Imported here, because --help, completion and a wrong override must not wait for torch.
    from fvit.cost import count
    from fvit.launch.console import print_facts
    from fvit.models.export import FORMATS, CardContent, card, check_name, needs_fvit
    from fvit.training import checkpoint

    for name in ("onnxscript", "onnx_ir", "timm"):  # their log of each folded node and opened file
        logging.getLogger(name).setLevel(logging.WARNING)
    form, out = config["format"], Path(config["out"]).expanduser()
    check_new(out)
    if config["push"] is not None:
        check_name(config["push"])
    path = checkpoint.find(config["ckpt_path"])
    content = checkpoint.read(path)
    exported = load(path, content)
    cost = count(exported.model, exported.img_size)
    for_timm = form in ("safetensors", "timm")
    import_fvit = for_timm and needs_fvit(exported, form)
    with new_directory(out) as folder:
        difference = FORMATS[form](exported, folder)
        source = f"hf-hub:{config['push']}" if config["push"] else f"local-dir:{out}"
        described = CardContent(
            form, source, content, exported.classes, cost.params, cost.macs, difference, import_fvit
        )
        (folder / "README.md").write_text(card(described), encoding="utf-8", errors="backslashreplace")
        if not for_timm:  # a directory for timm contains them in config.json
            inputs = {"img_size": exported.arguments["img_size"], **exported.preprocessing, "classes": exported.classes}
            (folder / "preprocessing.json").write_text(json.dumps(inputs, indent=2), encoding="utf-8")
    size = sum(file.stat().st_size for file in out.iterdir()) / 1e6
    lines = [
        ("saved to", f"{out}: {', '.join(sorted(file.name for file in out.iterdir()))}, {size:.3g} MB"),
        ("checked", f"logits differ from the checkpoint's by at most {difference:.1e} on 1, 2 and 5 random images"),
        ("cost", f"{cost.params / 1e6:.2f} M parameters, {cost.macs / 1e6:.4g} M MACs per image"),
    ]
    if for_timm:
        create = f"timm.create_model({f'local-dir:{out}'!r}, pretrained=True)"
        lines.append(("load it", f"import fvit.models, then {create}" if import_fvit else create))
    print_facts("Exported", lines)
    if config["push"] is not None:
        share(out, config["push"], config["private"], str(exported))
    return {}


def share(out: Path, repository: str, private: bool, name: str) -> None:
    """Push a directory to the Hugging Face Hub and print where it is; without a token, what would have been pushed."""
    from huggingface_hub.utils import disable_progress_bars

    from fvit.launch.console import is_quiet, print_facts
    from fvit.models.export import push

    if is_quiet():
        disable_progress_bars()
    done = push(out, repository, private, f"{name}, exported by fvit {fvit.__version__}")
    what = f"{'a private' if private else 'a public'} model, if it is new: {', '.join(sorted(os.listdir(out)))}"
    if done.pushed:
        loads = [("load it", f"fvit.load('hf-hub:{repository}')")] if (out / "config.json").is_file() else []
        print_facts("Pushed", [("to", done.url), *loads])
    else:
        advice = "no token: set HF_TOKEN, or `hf auth login`"
        print_facts("Not pushed", [("dry run", advice), ("would go to", done.url), ("as", what)])


def check_new(out: Path) -> None:
    """Check that `out` can become a new directory.

    Raises:
        ValueError: it is the current directory, a file, or a directory that is not empty.
    """
    if not out.name:
        raise ValueError(f"out={out} has no name; name a new directory")
    if out.exists() and (not out.is_dir() or any(out.iterdir())):
        raise ValueError(f"out={out} already exists; name a new directory, or remove that one")


@contextmanager
def new_directory(out: Path) -> Iterator[Path]:
    """A directory that is renamed to `out` at the end, or removed after an error."""
    out.parent.mkdir(parents=True, exist_ok=True)
    partial = out.with_name(f".{out.name}.{os.getpid()}.partial")
    partial.mkdir()
    try:
        yield partial
        if out.exists():
            out.rmdir()
        partial.rename(out)
    except BaseException:
        shutil.rmtree(partial)
        raise


def load(path: Path, content: dict[str, Any]) -> "ExportModel":
    """The checkpoint's model, its class names and its preprocessing."""
    from fvit.data.inference import display_names
    from fvit.models.export import ExportModel
    from fvit.training import Classifier

    data = content["datamodule_hyper_parameters"]
    if data.get("naflex"):
        raise ValueError(f"{path} was trained with data.naflex={data['naflex']}, and no format describes such images")
    module = Classifier.restore(content)
    trained = module.hparams
    preprocessing = {key: data[key] for key in ("mean", "std", "crop_pct", "interpolation")}
    names = display_names(content.get("classes"), module.num_outputs)
    return ExportModel.of(module.model, trained["model"], trained["img_size"], names, preprocessing)


if __name__ == "__main__":
    main()
