"""`fvit.load`: a model, the transform of its pictures and its classes, wherever the weights are."""

from pathlib import Path
from typing import TYPE_CHECKING, NamedTuple

from torch import nn

from fvit.config.errors import did_you_mean

if TYPE_CHECKING:
    from fvit.data.transforms.picture import PictureTransform


class Loaded(NamedTuple):
    """A trained model, ready to predict.

    Attributes:
        model: maps normalised images [B, 3, H, W] to logits [B, classes]; in evaluation mode, on the CPU.
        transform: maps a picture to one such image [3, H, W].
        classes: a readable name for each logit.
    """

    model: nn.Module
    transform: "PictureTransform"
    classes: list[str]


def load(where: str | Path) -> Loaded:
    """A trained or pretrained model with what predicting needs.

    ```python
    model, transform, classes = fvit.load("logs/train/runs/NAME")
    logits = model(transform("photo.jpg")[None])
    print(classes[logits.argmax()])
    ```

    Args:
        where: a checkpoint; a run directory (its best checkpoint); a directory that `fvit-export` wrote with
            ``format=safetensors`` or ``timm``; the name of a pretrained model of timm, with or without a tag;
            ``hf-hub:USER/NAME`` or ``local-dir:DIR``.

    Raises:
        FileNotFoundError: there is no checkpoint.
        ValueError: it cannot be read, is of another kind, or cannot be fetched.
    """
    from fvit.data.inference import display_names
    from fvit.data.transforms.picture import PictureTransform
    from fvit.training import checkpoint
    from fvit.training.trained import from_checkpoint, from_timm

    path = Path(where).expanduser()
    if exported := [name for name in ("model.onnx", "model.pt2") if (path / name).is_file()]:
        raise ValueError(f"{path} has {exported[0]}, which is not for PyTorch; export it with format=safetensors")
    if (path / "config.json").is_file():
        trained = from_timm(f"local-dir:{path}")
    elif path.exists():
        trained = from_checkpoint(checkpoint.find(path, key="path"))
    else:
        trained = from_timm(_timm_name(str(where)))
    keys = ("img_size", "crop_pct", "interpolation", "mean", "std", "crop_mode")
    data = {key: trained.data[key] for key in keys if key in trained.data}  # not all versions record all
    module = trained.module.eval()
    return Loaded(module.model, PictureTransform(**data), display_names(module.classes, module.num_outputs))


def _timm_name(name: str) -> str:
    """`name` itself, if timm or a hub may have such a model."""
    import timm

    if ":" not in name and not timm.is_model(name.partition(".")[0]):
        raise ValueError(
            f"{name} is neither a file or directory nor a model of timm{did_you_mean(name, timm.list_models())}; a "
            "model on the Hugging Face hub is called hf-hub:USER/NAME"
        )
    return name
