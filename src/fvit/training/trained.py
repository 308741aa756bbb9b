"""A trained model to evaluate or to predict with: that of a checkpoint, or one of timm's with its published weights."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any, NamedTuple

from fvit.models import data_config
from fvit.models.hub import source_of
from fvit.training import checkpoint
from fvit.training.classes import pretrained_classes
from fvit.training.classifier import Classifier


class Trained(NamedTuple):
    """A trained model.

    Attributes:
        module: on the CPU; its `classes` are the names of the outputs, or None where they are unknown.
        owner: the checkpoint or the name, for messages.
        data: arguments of `fvit.data.ImageDataModule` as in training; those of published weights have no source.
        metrics: recorded when the checkpoint was saved.
        held_out: `ImageDataModule.records` of its training.
    """

    module: Classifier
    owner: str
    data: dict[str, Any]
    metrics: dict[str, float]
    held_out: str


def open_trained(
    ckpt_path: str | None,
    pretrained: str | None,
    img_size: int | Sequence[int] | None = None,
    headless: bool = False,
    naflex: bool = False,
) -> Trained:
    """The model of a checkpoint or run directory, or a model with published weights; one of them is None.

    Args:
        ckpt_path, pretrained: see `from_checkpoint` and `from_timm`.
        img_size: of the images in pixels, the side or height and width; None for that of training.
        headless: accept published weights without a classifier.
        naflex: accept a model that was trained with ``data.naflex``.
    """
    if ckpt_path is None:
        return from_timm(pretrained, img_size, headless)
    return from_checkpoint(checkpoint.find(ckpt_path), img_size, naflex)


def from_checkpoint(path: Path, img_size: int | Sequence[int] | None = None, naflex: bool = False) -> Trained:
    """The model of a checkpoint of fvit; with `naflex` also one that was trained with ``data.naflex``.

    Raises:
        ValueError: the file is damaged, or no checkpoint of fvit, or of a model that takes no images of this size.
    """
    content = checkpoint.read(path)
    data = content.get("datamodule_hyper_parameters")
    if data is None:
        raise ValueError(f"{path} does not say how its images were prepared: it was not trained on fvit's data")
    if data.get("naflex") and not naflex:
        raise ValueError(
            f"{path} was trained with data.naflex={data['naflex']}: only fvit-train and, without probe and tta, "
            "fvit-eval prepare such images"
        )
    if img_size is not None:
        data = {**data, "img_size": img_size}
    held_out = content.get("ImageDataModule", {}).get("records", "")
    return Trained(Classifier.restore(content, img_size), str(path), data, content.get("metrics", {}), held_out)


def from_timm(name: str, img_size: int | Sequence[int] | None = None, headless: bool = False) -> Trained:
    """A model with published weights.

    Args:
        name: one of timm's, with or without a tag, ``hf-hub:OWNER/NAME`` or ``local-dir:FOLDER``.
        img_size: of the images in pixels, the side or height and width; None for that of the weights.
        headless: accept weights without a classifier; the model gets one that is not trained, for two classes.

    Raises:
        ValueError: there is no such model, it cannot be fetched, or it has no classifier.
    """
    data = {"batch_size": 64, **data_config(name)}
    config = source_of(name)[1]
    outputs = config.get("num_classes", 1000)  # timm's default
    if outputs < 2 and not headless:
        raise ValueError(f"{name} has no classifier: finetune it, fvit-train model=timm model.name={name} …")
    outputs = max(outputs, 2)
    if img_size is not None:
        data["img_size"] = img_size
    module = Classifier(
        model={"name": name, "pretrained": True, "num_classes": outputs},
        img_size=data["img_size"],
        num_classes=outputs,
        optimizer={},
        scheduler={},
        loss={"name": "cross_entropy", "label_smoothing": 0.0},
    )
    module.classes = config.get("label_names") or pretrained_classes(module.model)
    return Trained(module, name, data, {}, "")
