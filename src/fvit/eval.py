"""fvit-eval: measure a checkpoint on its validation images; with a second, cheaper one, also the cascade of the two."""

from pathlib import Path
from typing import Any

from fvit.run import cli, schema


def main() -> None:
    """The command line."""
    cli.run("eval", evaluate, schema.Eval)


def evaluate(config: dict[str, Any]) -> dict[str, float]:
    """Validate the checkpoint at ``config["ckpt_path"]`` and return val/loss, val/acc1 and val/acc5.

    With ``config["tiny"]`` also what a cascade does in which that one answers, and the other where it is unsure.
    """
    # Imported here, because composing, --help and a wrong override must not wait for torch.
    from fvit.cost import Cascade
    from fvit.run import cascade_report, console, execution
    from fvit.run import trainer as trainers
    from fvit.run.record import Record
    from fvit.run.subject import check_pair, load
    from fvit.training import CollectAnswers, checkpoint

    paths = [checkpoint.find(config[key], key=key) for key in ("ckpt_path", "tiny") if config[key] is not None]
    contents = [checkpoint.read(path) for path in paths]
    trainer = trainers.build({**config, "callbacks": {}})
    trainer.callbacks.append(collected := CollectAnswers())
    folder = Path(config["output_dir"])
    cascade, measured, answers = None, [], []
    with Record(folder, config, active=trainer.is_global_zero) as record, trainers.closing(trainer):
        subjects = [load(path, content, config["data"]) for path, content in zip(paths, contents, strict=True)]
        if config["tiny"] is not None:
            check_pair(*subjects, warn=trainer.is_global_zero)
        if trainer.is_global_zero:
            model = contents[0]["hyper_parameters"]["model"]
            trainers.log_beginning(trainer, {**config, "model": model}, subjects[0].cost, subjects[0].data)
        for subject in subjects:
            execution.set_up(config, subject.module, subject.data)
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


if __name__ == "__main__":
    main()
