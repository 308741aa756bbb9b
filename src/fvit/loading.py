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
    transform = PictureTransform(**{key: data[key] for key in ("img_size", "crop_pct", "interpolation", "mean", "std")})
    return Loaded(module.model, transform, display_names(content.get("classes"), module.num_outputs))


def _load_timm(name: str) -> Loaded:
    import timm
    from timm.models import parse_model_name

    from fvit.data.inference import display_names
    from fvit.data.transforms.picture import PictureTransform
    from fvit.models import data_config
    from fvit.models.hub import check_reachable, source_of
    from fvit.training.classes import pretrained_classes

    source, model_id = parse_model_name(name) if ":" in name else (None, name)
    if source is None and not timm.is_model(name.partition(".")[0]):
        raise ValueError(
            f"{name} is neither a file or directory nor a model of timm{did_you_mean(name, timm.list_models())}; a "
            "model on the Hugging Face hub is called hf-hub:USER/NAME"
        )
    config = data_config(name)
    pretrained = source_of(name)[1]
    hub_id = model_id if source == "hf-hub" else pretrained.get("hf_hub_id") if source is None else None
    if hub_id:
        check_reachable(hub_id)
    try:
        model = timm.create_model(name, pretrained=True).eval()
    except (OSError, RuntimeError) as error:  # no network; no published weights, or weights of another shape
        raise ValueError(f"{name} cannot be loaded: {' '.join(str(error).split())[:300]}") from error
    return Loaded(model, PictureTransform(**config), display_names(pretrained_classes(model), model.num_classes))
