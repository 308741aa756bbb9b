"""fvit-eval: measure a checkpoint on its validation images; with a second, cheaper one, also the cascade of the two."""

import logging
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

from fvit.config.schemas.train import Eval
from fvit.config.signature import source_signature
from fvit.launch import cli

if TYPE_CHECKING:
    from fvit.cost import Cost
    from fvit.data import ImageDataModule
    from fvit.training import Classifier

log = logging.getLogger(__name__)


class Subject(NamedTuple):
    """What is measured: a checkpoint's model, and the images as it sees them."""

    path: Path
    module: "Classifier"
    data: "ImageDataModule"
    cost: "Cost"


def main() -> None:
    """The command line."""
    cli.run("eval", evaluate, Eval)


def evaluate(config: dict[str, Any]) -> dict[str, float]:
    """Validate the checkpoint at ``config["ckpt_path"]`` and return val/loss, val/acc1 and val/acc5.

    With ``config["tiny"]`` also what a cascade does in which that one answers, and the other where it is unsure.
    """
    # Imported here, because composing, --help and a wrong override must not wait for torch.
    from fvit.cascade import report as cascade_report
    from fvit.cost import Cascade
    from fvit.launch import console
    from fvit.launch.run_dir import Record
    from fvit.training import CollectAnswers, checkpoint, runtime_flags
    from fvit.training import trainer as trainers

    paths = [checkpoint.find(config[key], key=key) for key in ("ckpt_path", "tiny") if config[key] is not None]
    contents = [checkpoint.read(path) for path in paths]
    trainer = trainers.build({**config, "callbacks": {}})
    trainer.callbacks.append(collected := CollectAnswers())
    folder = Path(config["output_dir"])
    cascade, measured, answers = None, [], []
    with Record(folder, config, active=trainer.is_global_zero) as record, trainers.closing(trainer):
        subjects = [_load(path, content, config["data"]) for path, content in zip(paths, contents, strict=True)]
        if config["tiny"] is not None:
            _check_pair(*subjects, warn=trainer.is_global_zero)
        if trainer.is_global_zero:
            model = contents[0]["hyper_parameters"]["model"]
            trainers.log_beginning(trainer, {**config, "model": model}, subjects[0].cost, subjects[0].data)
        for subject in subjects:
            runtime_flags.set_up(config, subject.module, subject.data)
            measured += trainer.validate(subject.module, datamodule=subject.data, verbose=False)
            answers.append(collected.answers)
        metrics = dict(measured[0])
        if config["tiny"] is not None:
            large, tiny = answers
            tiny.check_same_images(large)
            cascade = Cascade(tiny.confidence, tiny.right, large.right, subjects[1].cost.macs, subjects[0].cost.macs)
            metrics |= cascade_report.metrics(cascade)
            if trainer.is_global_zero:
                cascade_report.save(cascade, *paths, folder)
        record.finish(metrics)
        trainers.log_results(trainer, metrics)
    if trainer.is_global_zero:
        for path, content, found in zip(paths, contents, measured, strict=True):
            console.print_evaluation(path, found, content.get("metrics", {}))
        if cascade is not None:
            cascade_report.print_cascade(cascade, folder)
    return metrics


def _load(path: Path, content: dict[str, Any], asked: dict[str, Any]) -> Subject:
    from fvit.cost import count
    from fvit.data import ImageDataModule
    from fvit.training import Classifier

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


def _check_pair(large: Subject, tiny: Subject, warn: bool) -> None:
    """Hold two checkpoints against each other, each with the source that it was trained on or that was asked for."""
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


if __name__ == "__main__":
    main()
