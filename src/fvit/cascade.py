"""fvit-cascade: combine a tiny model with a large one for the images it is unsure of (TinySaver)."""

import logging
from typing import TYPE_CHECKING, Any

from fvit.config.schemas.eval import Cascade
from fvit.launch import cli

if TYPE_CHECKING:
    from pathlib import Path

    from fvit.cost import Cost
    from fvit.data import ImageDataModule

log = logging.getLogger(__name__)

_MODELS = ("large", "tiny")


def main() -> None:
    """The command line."""
    cli.run("cascade", evaluate, Cascade)


def evaluate(config: dict[str, Any]) -> dict[str, float]:
    """Validate the checkpoints ``large`` and ``tiny``, and report the cascade of both for all confidence thresholds.

    Returns:
        val/loss, val/acc1 and val/acc5 of the large model, and cascade/… of `fvit.tinysaver.report.metrics`.
    """
    # Imported here, because --help, completion and a wrong override must not wait for torch.
    from fvit.cost import count
    from fvit.eval import compared, load
    from fvit.launch.console import print_evaluation
    from fvit.launch.run_dir import RunDir
    from fvit.tinysaver import cascade, report
    from fvit.training import CollectPredictions, checkpoint, runtime_flags
    from fvit.training.trained import from_checkpoint
    from fvit.training.trainer import build_trainer

    paths = {key: checkpoint.find(config[key], key=key) for key in _MODELS}
    trained = {key: from_checkpoint(path) for key, path in paths.items()}
    trainer = build_trainer(config)
    [collector] = [callback for callback in trainer.callbacks if isinstance(callback, CollectPredictions)]
    models = {key: (one.module, load(one, config["data"])) for key, one in trained.items()}
    costs = {key: count(module.model, data.hparams.img_size) for key, (module, data) in models.items()}
    check_same_dataset(paths, {key: data for key, (_, data) in models.items()})
    if trainer.is_global_zero:
        warn_if_tiny_costs_more(paths, costs)
    measured, predictions = {}, {}
    with RunDir(config, trainer) as run:
        large, data = models["large"]
        run.log_start(data, costs["large"].metrics(), model=large.hparams.model)
        for key, (module, data) in models.items():
            runtime_flags.set_up(config, module, data)
            [measured[key]] = trainer.validate(module, data, verbose=False)
            predictions[key] = collector.predictions
        predictions["tiny"].check_same_images(predictions["large"])
        pair = cascade.Cascade(
            predictions["tiny"].confidence,
            predictions["tiny"].right,
            predictions["large"].right,
            costs["tiny"].macs,
            costs["large"].macs,
        )
        metrics = run.finish({**measured["large"], **report.metrics(pair)})
        if trainer.is_global_zero:
            report.save(pair, paths, run.path)
    if trainer.is_global_zero:
        for key, path in paths.items():
            print_evaluation(str(path), measured[key], trained[key].metrics, compared(*models[key]))
        report.print_cascade(pair, run.path)
    return metrics


def check_same_dataset(paths: "dict[str, Path]", data: "dict[str, ImageDataModule]") -> None:
    """Check that both models are evaluated on images of the same classes, by name.

    Raises:
        ValueError: they are not.
    """
    from fvit.training.classes import counterparts

    large, tiny = (data[key] for key in _MODELS)
    known = counterparts(large.classes, tiny.classes)
    if [known[label] for label in large.source.val.labels] != tiny.source.val.labels.tolist():
        described = [
            f"{key}={paths[key]} has {len(one.source.val)} images of {one.num_classes} classes from {one.hparams.name}"
            for key, one in data.items()
        ]
        raise ValueError(
            f"a cascade needs the same images with the same labels for both models: {'; '.join(described)}. "
            "Set data.name (and data.root) for both"
        )


def warn_if_tiny_costs_more(paths: "dict[str, Path]", costs: "dict[str, Cost]") -> None:
    """Warn of two checkpoints given in the wrong order."""
    if costs["tiny"].macs >= costs["large"].macs:
        macs = {key: f"{cost.macs / 1e6:.4g} M MACs per image" for key, cost in costs.items()}
        message = "tiny=%s takes %s, not less than large=%s with %s: swap them"
        log.warning(message, paths["tiny"], macs["tiny"], paths["large"], macs["large"])


if __name__ == "__main__":
    main()
