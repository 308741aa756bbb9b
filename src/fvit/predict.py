"""fvit-predict: classify images with a checkpoint, and draw its attention maps."""

import os
import re
import time
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import ExitStack
from functools import cache
from pathlib import Path
from typing import TYPE_CHECKING, Any

from fvit.config.errors import ConfigError, RunError
from fvit.config.overrides import quoted
from fvit.config.schemas.predict import Predict
from fvit.launch import cli

if TYPE_CHECKING:
    from torch import Tensor, nn

    from fvit.data.inference import InferenceBatch
    from fvit.reports.predictions import Prediction

_RANKS = 5
_SCORES = {"balanced_acc": "balanced accuracy", "macro_f1": "macro F1", "ece": "calibration error"}


def main() -> None:
    """The command line."""
    cli.run("predict", predict, Predict, quote_images)


def quote_images(arguments: Sequence[str]) -> list[str]:
    """Quote the value of ``images=`` for Hydra, whose grammar has other uses for commas, brackets and ``=``."""
    if {"-m", "--multirun"} & set(arguments):
        return list(arguments)
    value = re.compile(r"""(?<=^images=)(?!['"$]).*""", re.DOTALL)
    return [value.sub(lambda found: quoted(found[0]), word, count=1) for word in arguments]


def predict(config: dict[str, Any]) -> dict[str, float]:
    """Predict the five most probable classes of each image; write them to ``out``, and maps to ``output_dir``."""
    # Imported here, because --help, completion and a wrong override must not wait for torch.
    import torch

    from fvit.config.atomic import replacing
    from fvit.cost.workload import open_device
    from fvit.data.inference import display_names, find_images, inference_batches
    from fvit.launch.progress import counting
    from fvit.reports.predictions import MAX_ROWS, Tally, writing
    from fvit.reports.scores import print_scores
    from fvit.training.scores import score
    from fvit.training.trained import open_trained
    from fvit.training.views import VIEWS, AveragedViews

    out = Path(config["out"]).expanduser() if config["out"] else None
    if out is not None and out.is_dir():
        raise ConfigError(f"out={config['out']} is a directory; name a file")
    device = open_device(config["device"])
    trained = open_trained(config["ckpt_path"], config["pretrained"])
    images = find_images(config["images"])
    module = trained.module.to(device).eval()
    names = display_names(module.classes, module.num_outputs)
    crops, flip = VIEWS.get(config["tta"], (1, False))
    model = AveragedViews(module.model, crops, flip) if config["tta"] else module.model
    batches = inference_batches(images, trained.data, config["batch_size"], config["num_workers"], device, crops)
    if config["maps"]:
        folder = Path(config["output_dir"])
        batches = draw_maps(batches, module.model, names, folder, images.root, config["precision"])
    tally, start = Tally(names), time.monotonic()
    with ExitStack() as stack:
        outputs = [tally.add]
        if out is not None:
            out.parent.mkdir(parents=True, exist_ok=True)
            file = stack.enter_context(replacing(out, "wb"))
            outputs.append(stack.enter_context(writing(file, out.suffix, min(_RANKS, len(names)))))
        if len(images) > MAX_ROWS:
            advance = stack.enter_context(counting("images", len(images), 0))
            outputs.append(lambda _: advance(1))
        label = folder_labels(images.root, module.classes or [], names)
        for prediction in classify(model, names, batches, config["precision"]):
            for output in outputs:
                output(prediction._replace(label=label(prediction.file)))
        if not tally.predicted:
            first = tally.failed[0]
            raise RunError(f"none of {len(images):,} images could be read; the first, {first.file}: {first.error}")
    facts = []
    if tally.labels:
        scores = score(*map(torch.tensor, (tally.labels, tally.predictions, tally.confidences)), len(names))
        facts = [(_SCORES[key], f"{100 * value:.2f} %") for key, value in scores.metrics.items()]
        if len(images) > MAX_ROWS:
            print_scores(scores, names)
    saved = {"saved to": config["out"], "maps": config["output_dir"] if config["maps"] else None}
    tally.print(time.monotonic() - start, facts + [(name, place) for name, place in saved.items() if place])
    return {}


def classify(
    model: "nn.Module", names: list[str], batches: "Iterable[InferenceBatch]", precision: str = "float32"
) -> "Iterator[Prediction]":
    """One prediction per image; images that could not be read follow the others of their batch."""
    from fvit.reports.predictions import Prediction

    for batch in batches:
        if batch.files:
            # To the host at once: what follows would copy piece by piece.
            probabilities = _probabilities(model, batch.images, precision).cpu()
            if not (finite := probabilities.isfinite().all(dim=1)).all():
                file = batch.files[int(finite.logical_not().nonzero()[0])]
                raise RunError(f"the checkpoint's logits of {file} are not finite: training diverged, or it is damaged")
            values, indices = (part.tolist() for part in probabilities.topk(min(_RANKS, len(names))))
            for file, row, classes in zip(batch.files, values, indices, strict=True):
                yield Prediction(file, [(names[index], p) for index, p in zip(classes, row, strict=True)])
        for fault in batch.faults:
            yield Prediction(fault.where, [], fault.reason)


def _probabilities(model: "nn.Module", images: "Tensor", precision: str) -> "Tensor":
    """[B, 3, H, W] -> [B, classes]."""
    import torch

    from fvit.cost.workload import autocast

    with torch.no_grad(), autocast(images.device, precision):
        logits = model(images)
    return logits.float().softmax(dim=1)


def folder_labels(root: str | Path, classes: list[str], names: list[str]) -> "Callable[[str], str]":
    """A function from an image's path to the display name of the class after which its folder is named, or ``""``.

    Args:
        root: the folder below which the names of folders count.
        classes: with which the model was trained.
        names: the names of its outputs that are shown.
    """
    from fvit.training.classes import counterparts

    @cache
    def label(folder: str) -> str:
        [index] = counterparts([folder], classes)
        return "" if index is None else names[index]

    return lambda file: next(filter(None, map(label, reversed(Path(os.path.relpath(file, root)).parts[:-1]))), "")


def draw_maps(
    batches: "Iterable[InferenceBatch]",
    model: "nn.Module",
    names: list[str],
    folder: Path,
    root: str | Path,
    precision: str = "float32",
) -> "Iterator[InferenceBatch]":
    """Draw the attention maps of each image on its way: FILE.query.png and FILE.key.png, .map.png or .jacobian.png.

    Their paths relative to `folder` are those of the images relative to `root`; `names` are those of the classes.
    `precision` is that of the predicted class; maps are computed in float32.
    """
    from fvit.models.maps import attention_maps
    from fvit.models.overlay import draw

    for batch in batches:
        for row, file in enumerate(batch.files):
            name = os.path.relpath(file, root)
            probability, index = _probabilities(model, batch.images[row : row + 1], precision)[0].max(dim=0)
            predicted = f"predicted: {names[int(index)]}, {100 * probability:.1f} %"
            kinds: dict[str, list[Any]] = {}
            for one in attention_maps(model, batch.images[row : row + 1]):
                kinds.setdefault(one.name, []).append((one.block, one.weights[0]))
            for kind, blocks in kinds.items():
                draw(folder / f"{name}.{kind}.png", batch.pixels[row], blocks, f"{name}, {kind}", predicted)
        yield batch


if __name__ == "__main__":
    main()
