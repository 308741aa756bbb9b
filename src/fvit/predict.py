"""fvit-predict: what a checkpoint sees in images, and where it looks."""

import os
import time
from collections.abc import Iterable, Iterator
from contextlib import ExitStack
from pathlib import Path
from typing import TYPE_CHECKING, Any

from fvit.config.errors import ConfigError, RunError
from fvit.config.schemas.predict import Predict
from fvit.launch import cli

if TYPE_CHECKING:
    from torch import nn

    from fvit.data.inference import InferenceBatch
    from fvit.reports.predictions import Prediction

_RANKS = 5


def main() -> None:
    """The command line."""
    cli.run("predict", predict, Predict)


def predict(config: dict[str, Any]) -> dict[str, float]:
    """Name the five most probable classes of each image; write them to ``config["out"]``, and maps, if asked for."""
    # Imported here, because composing, --help and a wrong override must not wait for torch.
    from fvit.cost.machine import open_device
    from fvit.data.inference import display_names, find_images, inference_batches
    from fvit.data.storage.base import replacing
    from fvit.launch.progress import counting
    from fvit.reports.predictions import FEW, Tally, writing
    from fvit.training import Classifier, checkpoint

    device = open_device(config["device"])
    path = checkpoint.find(config["ckpt_path"])
    content = checkpoint.read(path)
    found = find_images(config["images"])
    module = Classifier.load_from_checkpoint(path, map_location=device, weights_only=True).eval()
    names = display_names(content.get("classes"), module.num_outputs)
    options = config["batch_size"], config["num_workers"], device
    batches = inference_batches(found, content["datamodule_hyper_parameters"], *options)
    if config["maps"]:
        batches = drawing(batches, module.model, Path(config["output_dir"]), found.root)
    out = _file(config["out"]) if config["out"] else None
    tally, start = Tally(), time.monotonic()
    with ExitStack() as stack:
        take = [tally.note]
        if out is not None:
            out.parent.mkdir(parents=True, exist_ok=True)
            file = stack.enter_context(replacing(out))
            take.append(stack.enter_context(writing(file, out.suffix, min(_RANKS, len(names)))))
        if len(found) > FEW:
            advance = stack.enter_context(counting("images", len(found), 0))
            take.append(lambda one: advance(1))
        for one in answers(module.model, names, batches):
            for each in take:
                each(one)
        if not tally.answered:
            first = tally.failed[0]
            raise RunError(f"none of {len(found):,} images could be read; the first, {first.file}: {first.error}")
    places = [("written to", config["out"]), ("maps", config["output_dir"] if config["maps"] else None)]
    tally.show(time.monotonic() - start, [(name, place) for name, place in places if place])
    return {}


def _file(path: str) -> Path:
    """Where to write, found out before thousands of images are looked at."""
    out = Path(path).expanduser()
    if out.is_dir():
        raise ConfigError(f"out={path} is a folder; name a file")
    return out


def answers(model: "nn.Module", names: list[str], batches: Iterable["InferenceBatch"]) -> Iterator["Prediction"]:
    """A prediction an image; those that could not be read come behind the others of their batch."""
    import torch

    from fvit.reports.predictions import Prediction

    for batch in batches:
        if batch.files:
            with torch.no_grad():
                probabilities = model(batch.images).float().softmax(dim=1)
            if not probabilities.isfinite().all():
                worst = batch.files[int((~probabilities.isfinite()).any(dim=1).nonzero()[0])]
                raise RunError(f"the checkpoint's logits of {worst} are not finite: it diverged, or was damaged")
            values, places = (part.tolist() for part in probabilities.topk(min(_RANKS, len(names))))
            for file, row, indices in zip(batch.files, values, places, strict=True):
                yield Prediction(file, [(names[index], p) for index, p in zip(indices, row, strict=True)])
        for fault in batch.faults:
            yield Prediction(fault.where, [], fault.reason)


def drawing(
    batches: Iterable["InferenceBatch"], model: "nn.Module", folder: Path, root: str | Path
) -> Iterator["InferenceBatch"]:
    """Pass batches on, and draw maps of each image: FILE.query.png and FILE.key.png, FILE.map.png, FILE.jacobian.png.

    They lie under `folder` as the images under `root`.
    """
    from fvit.models.maps import attention_maps
    from fvit.models.overlay import draw

    for batch in batches:
        for row, file in enumerate(batch.files):
            name = os.path.relpath(file, root)
            kinds: dict[str, list[Any]] = {}
            for one in attention_maps(model, batch.images[row : row + 1]):
                kinds.setdefault(one.name, []).append((one.block, one.weights[0]))
            for kind, blocks in kinds.items():
                draw(folder / f"{name}.{kind}.png", batch.pixels[row], blocks, f"{name}  {kind}")
        yield batch


if __name__ == "__main__":
    main()
