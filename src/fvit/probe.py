"""Probes of frozen features, for fvit-eval: the features of both splits, computed once and kept in the cache."""

import hashlib
import json
from collections.abc import Mapping
from typing import Any

import torch
from lightning import Trainer
from safetensors.torch import load_file, save
from torch import Tensor, nn
from torch.utils.data import DataLoader

import fvit
from fvit.callbacks.skipped_images import warn_of_skipped
from fvit.config.atomic import replacing
from fvit.config.errors import RunError
from fvit.data import ImageDataModule
from fvit.data.dataset import ImageDataset, collate
from fvit.data.images import Images
from fvit.data.sampler import EvalSampler
from fvit.data.storage.cache import cache_dir
from fvit.data.transforms.image import EvalTransform
from fvit.launch.progress import counting
from fvit.models.features import features
from fvit.training import Classifier
from fvit.training.probe import Features, run_probe

# Of the data configuration, what changes the pixels that a model sees.
_PREPROCESSING = ("img_size", "crop_pct", "interpolation", "mean", "std", "crop_mode")


def evaluate_probe(
    module: Classifier, data: ImageDataModule, trainer: Trainer, options: Mapping[str, Any]
) -> tuple[dict[str, float], list[tuple[str, str]]]:
    """The accuracies of a probe on the validation images, and facts about it.

    Args:
        module: whose model is frozen; its classes do not matter.
        data: the probe is fitted to the training images, which are neither augmented nor shuffled.
        trainer: says on which device and in which precision the model runs.
        options: of `run_probe`, and ``layer`` and ``pool`` of `features`.

    Raises:
        RunError: no image of a split can be read.
        ValueError: the model does not give these features.
    """
    where = {key: options[key] for key in ("layer", "pool")}
    device = trainer.strategy.root_device
    model = trainer.precision_plugin.convert_module(module.model).to(device).eval()
    # Options such as the number of heads change neither names nor shapes of weights.
    identity = [module.hparams.model, where, trainer.precision, device.type]
    train, val = (
        _cached(model, data, images, trainer, where, _key(model, data, images, identity), split)
        for images, split in ((data.source.train, "training"), (data.source.val, "validation"))
    )
    warn_of_skipped(data.faults.take(), "features")
    fit = {key: value for key, value in options.items() if key not in where}
    metrics, facts = run_probe(train, val, data.num_classes, fit)
    layer, pool = options["layer"], {"token": "class token", "avg": "mean of the patches"}.get(options["pool"])
    place = "the head's input" if layer is pool is None else f"layer {'last' if layer is None else layer}"
    what = ", ".join(filter(None, [place, pool, f"{train.vectors.shape[1]} values"]))
    images = f"{len(train.labels):,} training and {len(val.labels):,} validation images"
    return metrics, [("probe", options["name"]), *facts, ("features", what), ("images", images)]


def _cached(
    model: nn.Module,
    data: ImageDataModule,
    images: Images,
    trainer: Trainer,
    where: Mapping[str, Any],
    key: str,
    split: str,
) -> Features:
    """The features of a split, from the cache if the same model has seen the same images."""
    file = cache_dir() / "features" / f"{key}.safetensors"
    if not file.is_file():
        vectors, labels = _compute(model, data, images, trainer, where)
        if not len(labels):
            raise RunError(f"none of the {split} images could be read; the last: {data.faults.latest()}")
        file.parent.mkdir(parents=True, exist_ok=True)
        with replacing(file, "wb") as target:
            target.write(save({"vectors": vectors, "labels": labels}))
    content = load_file(file)
    return Features(content["vectors"].numpy(), content["labels"].numpy())


@torch.no_grad()
def _compute(
    model: nn.Module, data: ImageDataModule, images: Images, trainer: Trainer, where: Mapping[str, Any]
) -> tuple[Tensor, Tensor]:
    """Features float32 [N, C] and labels int64 [N] of the images that can be read, in their order."""
    settings, parameter = data.hparams, next(model.parameters())
    transform = EvalTransform(
        data.decoder, settings.img_size, settings.crop_pct, settings.interpolation, settings.crop_mode
    )
    loader = DataLoader(
        ImageDataset(images, transform, settings.seed, replace=False),
        settings.eval_batch_size or settings.batch_size,
        sampler=EvalSampler(len(images)),
        collate_fn=collate,
        num_workers=data.num_workers,
        pin_memory=settings.pin_memory,
        generator=torch.Generator(),
    )
    vectors, labels = [], []
    with counting("images", len(images), 0) as advance, trainer.precision_plugin.forward_context():
        for batch in loader:
            data.faults.note(batch.faults)
            if len(batch.labels):
                on_device = batch._replace(images=batch.images.to(parameter.device, non_blocking=True))
                inputs, _ = data.batch_transform(on_device, False, parameter.dtype)
                vectors.append(features(model, inputs, **where).float().cpu())
                labels.append(batch.labels)
            advance(len(batch.labels) + len(batch.faults))
    return (torch.cat(vectors), torch.cat(labels)) if labels else (torch.empty(0, 0), torch.empty(0))


def _key(model: nn.Module, data: ImageDataModule, images: Images, identity: list[Any]) -> str:
    """A digest of all that the features follow from."""
    settings = [data.hparams[key] for key in _PREPROCESSING]
    text = json.dumps([fvit.__version__, repr(model), identity, settings, data.decoder.name, images.digest()])
    digest = hashlib.sha256(text.encode())
    for name, weight in model.state_dict().items():
        digest.update(name.encode())
        digest.update(weight.detach().cpu().contiguous().reshape(-1).view(torch.uint8).numpy())
    return digest.hexdigest()
