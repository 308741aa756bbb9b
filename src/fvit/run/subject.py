"""What fvit-eval measures: checkpoints, and the images as each of them sees them."""

import logging
from pathlib import Path
from typing import Any, NamedTuple

from fvit.cost import Cost, count
from fvit.data import ImageDataModule
from fvit.run.signature import source_signature
from fvit.training import Classifier

log = logging.getLogger(__name__)


class Subject(NamedTuple):
    """A checkpoint's model, and the images as it sees them."""

    path: Path
    module: Classifier
    data: ImageDataModule
    cost: Cost


def load(path: Path, content: dict[str, Any], asked: dict[str, Any]) -> Subject:
    """The subject of a checkpoint.

    Args:
        path: of the checkpoint.
        content: of that file.
        asked: options of the data that take the place of those in training, where they are not None.

    Raises:
        ValueError: the data has more classes than the model's head, or an option has no meaning for its source.
    """
    data = ImageDataModule(**_data_options(content["datamodule_hyper_parameters"], asked))
    module = Classifier.load_from_checkpoint(path, map_location="cpu", weights_only=True)
    if data.num_classes > module.num_outputs:
        raise ValueError(
            f"the data has {data.num_classes} classes and the checkpoint's head {module.num_outputs} outputs"
        )
    return Subject(path, module, data, count(module.model, data.hparams.img_size))


def _data_options(trained: dict[str, Any], asked: dict[str, Any]) -> dict[str, Any]:
    """The DataModule's arguments as in training, with what is asked for; another source drops the first one's."""
    changes = {key: value for key, value in asked.items() if value is not None}
    name = changes.get("name", trained["name"])
    of_source = source_signature(name)
    if "root" in changes and "root" not in of_source:
        raise ValueError(f"data.root has no meaning for data.name={name}; set data.name=folder as well")
    of_any = trained.keys() - source_signature(trained["name"]).keys()
    return {key: value for key, value in {**trained, **changes}.items() if key in of_any or key in of_source}


def check_pair(large: Subject, tiny: Subject, warn: bool) -> None:
    """Hold two checkpoints against each other, each with the source that it was trained on or that was asked for.

    Args:
        large: answers where the other one is unsure.
        tiny: answers first.
        warn: if the tiny one is no cheaper.

    Raises:
        ValueError: they do not see the same images with the same labels.
    """
    ours, theirs = large.data, tiny.data
    if ours.classes != theirs.classes or ours.source.val.labels.tolist() != theirs.source.val.labels.tolist():
        sides = [
            f"{key}={path} has {len(data.source.val)} images of {data.num_classes} classes from {data.hparams.name}"
            for key, (path, _, data, _) in (("ckpt_path", large), ("tiny", tiny))
        ]
        raise ValueError(
            f"a cascade needs the same images with the same labels for both models: {'; '.join(sides)}. "
            "Set data.name (and data.root) for both"
        )
    if tiny.cost.macs >= large.cost.macs and warn:
        message = "tiny=%s takes %.4g M MACs an image, no less than ckpt_path=%s with %.4g M: exchange the two"
        log.warning(message, tiny.path, tiny.cost.macs / 1e6, large.path, large.cost.macs / 1e6)
