"""A frozen model to learn from."""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, Self

import torch
from torch import Tensor, nn

from fvit.models import build
from fvit.training import checkpoint
from fvit.training.classifier import Classifier

_KEY = "distillation.teacher.path"


class Teacher:
    """A model in evaluation mode, without gradients, that takes the student's images.

    No nn.Module, so that whoever holds it neither saves it nor hands it to an optimizer or to DDP; it is moved by
    `to`. Copies share it, since nothing in it changes.

    Args:
        model: maps images [B, 3, H, W] to logits [B, outputs]; frozen in place.
        name: for people.
        given: mean and standard deviation of the channels that the student's images are normalised with.
        wanted: those that `model` was trained with.
    """

    def __init__(
        self,
        model: nn.Module,
        name: str,
        given: tuple[Sequence[float], Sequence[float]],
        wanted: tuple[Sequence[float], Sequence[float]],
    ) -> None:
        self.model = model.eval().requires_grad_(False)
        self.name = name
        (mean, std), (own_mean, own_std) = (torch.tensor(pair).view(2, -1, 1, 1) for pair in (given, wanted))
        # In both, x · scale + shift; one and zero where student and teacher see the same.
        self.scale, self.shift = std / own_std, (mean - own_mean) / own_std

    @property
    def num_outputs(self) -> int:
        """Width of the head."""
        return self.model.num_classes

    @torch.no_grad()
    def __call__(self, images: Tensor) -> Tensor:
        """Map the student's images [B, 3, H, W] to logits [B, outputs]."""
        return self.model(images * self.scale + self.shift)

    def to(self, device: torch.device, dtype: torch.dtype) -> Self:
        """Move, in place."""
        self.model.to(device, dtype)
        self.scale, self.shift = self.scale.to(device, dtype), self.shift.to(device, dtype)
        return self

    def __deepcopy__(self, memo: dict[int, Any]) -> Self:
        return self


def load_teacher(
    name: str | None,
    path: str | None,
    num_classes: int,
    img_size: int,
    normalisation: tuple[Sequence[float], Sequence[float]],
) -> Teacher:
    """The teacher that a configuration names.

    Args:
        name: of a model of timm; None for a checkpoint of ours.
        path: our checkpoint, or a run's folder (its best one); with `name`, a file of weights in place of timm's own,
            for as many classes as the student has.
        num_classes: width of the student's head.
        img_size: side of the student's images in pixels.
        normalisation: mean and standard deviation of the channels of the student's images.

    Raises:
        FileNotFoundError: nothing is at `path`.
        ValueError: the weights cannot be had, or are of another model or image size.
    """
    if name is None:
        return _load_ours(path, img_size, normalisation)
    source: dict[str, Any] = {"pretrained": True}
    if path is not None:
        file = Path(path).expanduser()
        if not file.is_file():
            raise FileNotFoundError(f"{_KEY}={path} is no file; distillation.teacher.name={name} needs one of weights")
        source["pretrained_cfg_overlay"] = {"file": str(file), "num_classes": num_classes}
    try:
        model = build(name, img_size, num_classes=num_classes if path else None, **source)
    except ValueError as error:
        raise ValueError(
            f"no teacher {name}{f' from {path}' if path else ''}: {str(error).splitlines()[0].rstrip('.')}. "
            f"{_KEY}=FILE names weights that you have; without distillation.teacher.name, a run of ours"
        ) from error
    wanted = model.pretrained_cfg["mean"], model.pretrained_cfg["std"]
    return Teacher(model, name, normalisation, wanted)


def _load_ours(path: str, img_size: int, normalisation: tuple[Sequence[float], Sequence[float]]) -> Teacher:
    file = checkpoint.find(path, key=_KEY)
    content = checkpoint.read(file)
    parameters, data = content["hyper_parameters"], content["datamodule_hyper_parameters"]
    if parameters["img_size"] != img_size:
        raise ValueError(
            f"{file} was trained on images of {parameters['img_size']} px, and the student takes {img_size}; "
            f"set data.img_size={parameters['img_size']}, or choose another teacher"
        )
    teacher = Classifier.load_from_checkpoint(file, map_location="cpu", weights_only=True)
    accuracy = content.get("metrics", {}).get("val/acc1")
    measured = f", {100 * accuracy:.2f} % on {data['name']} when saved" if accuracy is not None else ""
    name = f"{parameters['model']['name']}, {_attention(parameters['model'])}{measured}; {file}"
    return Teacher(teacher.model, name, normalisation, (data["mean"], data["std"]))


def _attention(model: Mapping[str, Any]) -> str:
    return model.get("attention", {"name": "native"})["name"]
