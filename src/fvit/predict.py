"""fvit-predict: classify images with a checkpoint, and draw its attention maps."""

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
    """Predict the five most probable classes of each image; write them to ``out``, and maps to ``output_dir``."""
    # Imported here, because --help, completion and a wrong override must not wait for torch.
    from fvit.config.atomic import replacing
    from fvit.cost.workload import open_device
    from fvit.data.inference import display_names, find_images, inference_batches
    from fvit.launch.progress import counting
    from fvit.reports.predictions import MAX_ROWS, Tally, writing
    from fvit.training import Classifier, checkpoint

    out = Path(config["out"]).expanduser() if config["out"] else None
    if out is not None and out.is_dir():
        raise ConfigError(f"out={config['out']} is a directory; name a file")
    device = open_device(config["device"])
    path = checkpoint.find(config["ckpt_path"])
    content = checkpoint.read(path)
    images = find_images(config["images"])
    module = Classifier.load_from_checkpoint(path, map_location=device, weights_only=True).eval()
    names = display_names(content.get("classes"), module.num_outputs)
    trained = content["datamodule_hyper_parameters"]
    batches = inference_batches(images, trained, config["batch_size"], config["num_workers"], device)
    if config["maps"]:
        batches = draw_maps(batches, module.model, Path(config["output_dir"]), images.root)
    tally, start = Tally(), time.monotonic()
    with ExitStack() as stack:
        outputs = [tally.add]
        if out is not None:
            out.parent.mkdir(parents=True, exist_ok=True)
            file = stack.enter_context(replacing(out, "wb"))
            outputs.append(stack.enter_context(writing(file, out.suffix, min(_RANKS, len(names)))))
        if len(images) > MAX_ROWS:
            advance = stack.enter_context(counting("images", len(images), 0))
            outputs.append(lambda _: advance(1))
        for prediction in classify(module.model, names, batches):
            for output in outputs:
                output(prediction)
        if not tally.predicted:
            first = tally.failed[0]
            raise RunError(f"none of {len(images):,} images could be read; the first, {first.file}: {first.error}")
    saved = {"saved to": config["out"], "maps": config["output_dir"] if config["maps"] else None}
    tally.print(time.monotonic() - start, [(name, place) for name, place in saved.items() if place])
    return {}


def classify(model: "nn.Module", names: list[str], batches: "Iterable[InferenceBatch]") -> "Iterator[Prediction]":
    """One prediction per image; images that could not be read follow the others of their batch."""
    import torch

    from fvit.reports.predictions import Prediction

    for batch in batches:
        if batch.files:
            with torch.no_grad():
                # To the host at once: what follows would copy piece by piece.
                probabilities = model(batch.images).float().softmax(dim=1).cpu()
            if not (finite := probabilities.isfinite().all(dim=1)).all():
                file = batch.files[int(finite.logical_not().nonzero()[0])]
                raise RunError(f"the checkpoint's logits of {file} are not finite: training diverged, or it is damaged")
            values, indices = (part.tolist() for part in probabilities.topk(min(_RANKS, len(names))))
            for file, row, classes in zip(batch.files, values, indices, strict=True):
                yield Prediction(file, [(names[index], p) for index, p in zip(classes, row, strict=True)])
        for fault in batch.faults:
            yield Prediction(fault.where, [], fault.reason)


def draw_maps(
    batches: "Iterable[InferenceBatch]", model: "nn.Module", folder: Path, root: str | Path
) -> "Iterator[InferenceBatch]":
    """Draw the attention maps of each image on its way: FILE.query.png and FILE.key.png, .map.png or .jacobian.png.

    Their paths relative to `folder` are those of the images relative to `root`.
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
