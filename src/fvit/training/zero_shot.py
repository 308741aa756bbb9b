"""Zero-shot classification by image-text models of OpenCLIP: texts with the names of the classes are the classifier.

Source: Radford et al., arXiv:2103.00020, section 3.1; the models are those of OpenCLIP (arXiv:2212.07143).
"""

import logging
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any, NamedTuple

import torch
import torch.nn.functional as F
from timm.data import ImageNetInfo
from torch import Tensor, nn

from fvit.config.errors import did_you_mean
from fvit.launch.progress import counting
from fvit.models.hub import check_reachable, impatient
from fvit.training.classes import abbreviate, counterparts, wordnet_id
from fvit.training.classifier import Classifier

_CLASSES_PER_PASS = 10  # of the text tower, each in all templates
_CROP_MODES = {"shortest": "center", "squash": "squash"}  # OpenCLIP's names, and timm's


class ImageText(NamedTuple):
    """An image-text model, which becomes a classifier by `classify`; else as `fvit.training.trained.Trained`.

    Attributes:
        model: of open_clip, on the CPU, with both towers.
        tokenizer: maps N texts to tokens, int64 [N, context length].
    """

    model: nn.Module
    tokenizer: Callable[[list[str]], Tensor]
    owner: str
    data: dict[str, Any]
    metrics: dict[str, float]
    held_out: str


class ZeroShot(nn.Module):
    """Cosine similarities of images and texts, times the temperature that the model has learned.

    Args:
        visual: the image tower; maps images [B, 3, H, W] to features [B, D], or to a tuple that begins with them.
        texts: the normalised features of each class [classes, D].
        scale: the factor of the similarities.
    """

    def __init__(self, visual: nn.Module, texts: Tensor, scale: Tensor) -> None:
        super().__init__()
        self.visual = visual
        self.register_buffer("texts", scale * texts)

    def forward(self, images: Tensor) -> Tensor:
        """Normalised images [B, 3, H, W] to logits float32 [B, classes]."""
        features = self.visual(images)
        if isinstance(features, tuple):  # CoCa's, with the tokens for its decoder
            features = features[0]
        # Not in bfloat16, in which a logit of 25 has neighbours at a distance of 1/8.
        device = "cpu" if images.is_meta else images.device.type
        with torch.autocast(device, enabled=False):
            return F.linear(F.normalize(features.float(), dim=1), self.texts.float())


def open_image_text(name: str, weights: str | None, img_size: int | Sequence[int] | None = None) -> ImageText:
    """An image-text model with trained weights.

    Args:
        name: one of OpenCLIP's, ``hf-hub:OWNER/NAME`` or ``local-dir:FOLDER``.
        weights: a tag of OpenCLIP's, or a file; None for a hub or folder, which has its own.
        img_size: of the images in pixels, the side or height and width; None for that of the model.

    Raises:
        ValueError: there is no such model, its weights do not fit, or they cannot be fetched.
    """
    import open_clip

    if ":" not in name:
        _check_known(name, weights)
        weights = weights if open_clip.get_pretrained_cfg(name, weights) else str(Path(weights).expanduser())
    options = {} if img_size is None else {"force_image_size": img_size if isinstance(img_size, int) else (*img_size,)}
    try:
        with impatient(open_clip.pretrained), _silent():
            published = open_clip.get_model_config(name)["text_cfg"].get("hf_tokenizer_name")
            if published and not name.startswith("local-dir:"):  # a folder has its own
                check_reachable(published, "tokenizer_config.json")
            tokenizer = open_clip.get_tokenizer(name)
            # OpenCLIP warns only, and computes something else, where the weights were trained with the quick GELU.
            quick = bool(weights) and open_clip.get_pretrained_cfg(name, weights).get("quick_gelu", False)
            model = open_clip.create_model(name, weights, force_quick_gelu=quick, require_pretrained=True, **options)
    except (OSError, RuntimeError, ValueError, KeyError) as error:
        owner = f"zero_shot={name}" + (f" pretrained={weights}" if weights else "")
        raise ValueError(f"{owner} cannot be loaded: {' '.join(str(error).split())[:400]}") from error
    return ImageText(
        model.eval(), tokenizer, f"{name} {weights}" if weights else name, _preprocessing(model.visual), {}, ""
    )


def classify(
    towers: ImageText, classes: Sequence[str], templates: Sequence[str] | None, device: torch.device
) -> tuple[Classifier, list[tuple[str, str]]]:
    """The classifier of these classes, and facts about it.

    Args:
        towers: the model; its text tower is no part of the classifier.
        classes: names, as those of a dataset.
        templates: of the texts, each with ``{}`` for the name; None for those that CLIP's authors wrote for ImageNet.
            The features of a class are the mean of those of its texts.
        device: on which the texts are encoded.

    Raises:
        ValueError: the classes have numbers instead of names, and `templates` does not say what these mean.
    """
    import open_clip

    if templates is None and all(name.isdecimal() for name in classes):
        raise ValueError(
            f"the classes are called {abbreviate(classes, 3)}, which tells {towers.owner} nothing about them: name "
            "their folders in words, or say what the numbers are: 'templates=[\"a photo of the number {}.\"]'"
        )
    names, model = words_of(classes), towers.model.to(device)
    templates = list(templates or [template("{}") for template in open_clip.OPENAI_IMAGENET_TEMPLATES])
    columns = []
    with counting("classes", len(names), 0) as advance:
        for start in range(0, len(names), _CLASSES_PER_PASS):
            some = names[start : start + _CLASSES_PER_PASS]
            columns.append(open_clip.build_zero_shot_classifier(model, towers.tokenizer, some, templates, None, device))
            advance(len(some))
    texts = torch.cat(columns, dim=1).T
    # A learned bias, as SigLIP has one, adds the same to all logits.
    module = ZeroShot(model.visual, texts, model.logit_scale.detach().exp())
    facts = [("texts", f"{len(templates)} per class, averaged; the first: {templates[0].format(names[0])}")]
    return Classifier(module, towers.data["img_size"], classes=classes), facts


def words_of(classes: Sequence[str]) -> list[str]:
    """What classes are called in a text.

    WordNet IDs have words, and ImageNet's 1,000 classes, also by their words, the names that CLIP's authors gave them;
    other names are as they are, with spaces for underscores.
    """
    import open_clip

    synsets = ImageNetInfo("imagenet-1k").label_names()
    found = counterparts(classes, synsets)
    if None not in found and len(found) == len(synsets):
        return [open_clip.IMAGENET_CLASSNAMES[index] for index in found]
    described = ImageNetInfo("imagenet-22k").label_descriptions(as_dict=True)
    words = {synset: text.partition(",")[0] for synset, text in described.items()}
    words |= dict(zip(synsets, open_clip.IMAGENET_CLASSNAMES, strict=True))
    return [words.get(wordnet_id(name), name.replace("_", " ")) for name in classes]


def _check_known(name: str, weights: str | None) -> None:
    import open_clip

    if name not in (known := open_clip.list_models()):
        raise ValueError(
            f"zero_shot={name} is not a model of OpenCLIP{did_you_mean(name, known)}; `python -c 'import open_clip; "
            "print(open_clip.list_models())'` lists them; others are hf-hub:OWNER/NAME or local-dir:FOLDER"
        )
    tags = open_clip.list_pretrained_tags_by_model(name)
    if weights is None or not (open_clip.get_pretrained_cfg(name, weights) or Path(weights).expanduser().is_file()):
        given = "has no weights" if weights is None else f"has no weights {weights}, nor is that a file"
        raise ValueError(f"zero_shot={name} {given}: set pretrained=FILE, or one of {', '.join(tags) or 'none'}")


@contextmanager
def _silent() -> Iterator[None]:
    """open_clip tells the root logger each step, and what it raises as well."""
    before = logging.root.manager.disable
    logging.disable(logging.ERROR)
    try:
        yield
    finally:
        logging.disable(before)


def _preprocessing(visual: nn.Module) -> dict[str, Any]:
    """The arguments of `fvit.data.ImageDataModule` for an image tower of open_clip."""
    config = visual.preprocess_cfg
    if (mode := config["resize_mode"]) not in _CROP_MODES:
        raise ValueError(f"images for this model are resized by {mode}, which cannot be computed here")
    height, width = (config["size"],) * 2 if isinstance(config["size"], int) else config["size"]
    return {
        "batch_size": 64,
        "img_size": height if height == width else [height, width],
        "crop_pct": 1.0,
        "crop_mode": _CROP_MODES[mode],
        # As open_clip: where it says random, images are bicubic in evaluation.
        "interpolation": "bilinear" if config["interpolation"] == "bilinear" else "bicubic",
        "mean": list(config["mean"]),
        "std": list(config["std"]),
    }
