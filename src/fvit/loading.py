"""`fvit.load`: a model, the transform of its pictures and its classes, wherever the weights are."""

from pathlib import Path
from typing import TYPE_CHECKING, NamedTuple

from torch import nn

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
    path = Path(where).expanduser()
    if (path / "config.json").is_file():
        return _load_timm(f"local-dir:{path}")
    return _load_checkpoint(path) if path.exists() else _load_timm(str(where))


def _load_checkpoint(path: Path) -> Loaded:
    from fvit.data.inference import display_names
    from fvit.data.transforms.picture import PictureTransform
    from fvit.training import Classifier, checkpoint

    if exported := [name for name in ("model.onnx", "model.pt2") if (path / name).is_file()]:
        raise ValueError(f"{path} has {exported[0]}, which is not for PyTorch; export it with format=safetensors")
    file = checkpoint.find(path, key="path")
    content = checkpoint.read(file)
    data = content.get("datamodule_hyper_parameters")
    if data is None:
        raise ValueError(f"{file} does not say how its images were prepared: it was not trained on fvit's data")
    module = Classifier.restore(content).eval()
    transform = PictureTransform(
        **{key: data[key] for key in ("img_size", "crop_pct", "interpolation", "mean", "std")}
    )
    return Loaded(module.model, transform, display_names(content.get("classes"), module.num_outputs))
