"""The teacher of a distillation: a frozen model."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any, Self

import torch
from timm.layers import to_2tuple
from torch import Tensor, nn

from fvit.config.wording import pixels
from fvit.models import build
from fvit.models.any_size import forward_any_size
from fvit.training import checkpoint
from fvit.training.classes import pretrained_classes
from fvit.training.classifier import Classifier

_KEY = "distillation.teacher.path"


class Teacher:
    """A frozen model in evaluation mode that takes the student's images.

    Not an nn.Module, so that the student's checkpoints, optimizer and DDP ignore it. Copies share it.

    Args:
        model: maps images [B, 3, H, W] to logits [B, outputs]; frozen in place.
        name: a description for the summary of the run.
        given: mean and standard deviation per channel with which the student's images are normalised.
        wanted: those with which `model` was trained.
        classes: names of its outputs; None if they are unknown.
    """

    def __init__(
        self,
        model: nn.Module,
        name: str,
        given: tuple[Sequence[float], Sequence[float]],
        wanted: tuple[Sequence[float], Sequence[float]],
        classes: Sequence[str] | None = None,
    ) -> None:
        self.classes = classes
        self.outputs: Tensor | None = None
        self.model = model.eval().requires_grad_(False)
        self.name = name
        (mean, std), (own_mean, own_std) = (torch.tensor(pair).view(2, -1, 1, 1) for pair in (given, wanted))
        # Renormalisation x · scale + shift; 1 and 0 if both are the same.
        self.scale, self.shift = std / own_std, (mean - own_mean) / own_std

    @property
    def num_outputs(self) -> int:
        """The number of logits: of the selected outputs, or of all."""
        return self.model.num_classes if self.outputs is None else len(self.outputs)

    def select(self, outputs: Sequence[int]) -> None:
        """Give the logits of these outputs alone, in this order, which is that of the student's classes."""
        if list(outputs) != list(range(self.num_outputs)):
            self.outputs = torch.tensor(outputs)
            self.name += f"; {len(outputs)} of its {self.model.num_classes} outputs, by class name"

    @torch.no_grad()
    def __call__(self, images: Tensor) -> Tensor:
        """The student's images [B, 3, H, W] to logits [B, outputs]."""
        logits = forward_any_size(self.model, images * self.scale + self.shift)
        return logits if self.outputs is None else logits[:, self.outputs]

    def to(self, device: torch.device, dtype: torch.dtype) -> Self:
        self.model.to(device, dtype)
        self.outputs = None if self.outputs is None else self.outputs.to(device)
        self.scale, self.shift = self.scale.to(device, dtype), self.shift.to(device, dtype)
        return self

    def __deepcopy__(self, memo: dict[int, Any]) -> Self:
        return self


def load_teacher(
    name: str | None,
    path: str | None,
    num_classes: int,
    img_size: int | Sequence[int],
    normalisation: tuple[Sequence[float], Sequence[float]],
) -> Teacher:
    """The teacher of a configuration.

    Args:
        name: timm's name of a model; None for an fvit checkpoint.
        path: an fvit checkpoint or a run directory (its best checkpoint); with `name`, a file of weights instead of
            timm's own, with as many classes as the student.
        num_classes: number of outputs of the student.
        img_size: of the student's images in pixels: the side of squares, or height and width.
        normalisation: mean and standard deviation per channel of the student's images.

    Raises:
        FileNotFoundError: `path` does not exist.
        ValueError: the weights cannot be loaded, or belong to another model or image size.
    """
    if name is None:
        return _load_checkpoint(path, img_size, normalisation)
    source: dict[str, Any] = {"pretrained": True}
    if path is not None:
        file = Path(path).expanduser()
        if not file.is_file():
            raise FileNotFoundError(f"{_KEY}={path} is not a file of weights for distillation.teacher.name={name}")
        source["pretrained_cfg_overlay"] = {"file": str(file), "num_classes": num_classes}
    try:
        model = build(name, img_size, num_classes=num_classes if path else None, **source)
    except ValueError as error:
        raise ValueError(
            f"no teacher {name}{f' from {path}' if path else ''}: {str(error).splitlines()[0].rstrip('.')}. "
            f"{_KEY}=FILE names a file of weights or, without distillation.teacher.name, a run of fvit"
        ) from error
    wanted = model.pretrained_cfg["mean"], model.pretrained_cfg["std"]
    return Teacher(model, name, normalisation, wanted, None if path else pretrained_classes(model))


def _load_checkpoint(
    path: str, img_size: int | Sequence[int], normalisation: tuple[Sequence[float], Sequence[float]]
) -> Teacher:
    file = checkpoint.find(path, key=_KEY)
    try:
        content = checkpoint.read(file)
    except ValueError as error:
        raise ValueError(
            f"no teacher from {path}: {str(error).partition('; ')[0]}. Weights of a timm model need its name as well: "
            "distillation.teacher.name=…"
        ) from error
    parameters, data = content["hyper_parameters"], content["datamodule_hyper_parameters"]
    if to_2tuple(parameters["img_size"]) != to_2tuple(img_size):
        raise ValueError(
            f"{file} was trained on images of {pixels(parameters['img_size'])}, and the student takes "
            f"{pixels(img_size)}; set data.img_size={parameters['img_size']}, or use another teacher"
        )
    teacher = Classifier.restore(content)
    accuracy = content.get("metrics", {}).get("val/acc1")
    measured = f", {100 * accuracy:.2f} % on {data['name']} when saved" if accuracy is not None else ""
    attention = parameters["model"].get("attention", {"name": "native"})["name"]
    name = f"{parameters['model']['name']}, {attention}{measured}; {file}"
    return Teacher(teacher.model, name, normalisation, (data["mean"], data["std"]), teacher.classes)
