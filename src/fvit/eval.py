"""fvit-eval: measure a checkpoint on its validation images."""

from pathlib import Path
from typing import Any

from fvit.run import cli, schema


def main() -> None:
    """The command line."""
    cli.run("eval", evaluate, schema.Eval)


def evaluate(config: dict[str, Any]) -> dict[str, float]:
    """Validate the checkpoint at ``config["ckpt_path"]`` and return val/loss, val/acc1 and val/acc5."""
    # Imported here, because composing, --help and a wrong override must not wait for torch.
    from fvit.data import ImageDataModule
    from fvit.run import console
    from fvit.run import trainer as trainers
    from fvit.run.record import Record
    from fvit.training import Classifier, checkpoint

    path = checkpoint.find(config["ckpt_path"])
    content = checkpoint.read(path)
    trainer = trainers.build({**config, "callbacks": {}, "logger": {}})
    with Record(Path(config["output_dir"]), config, active=trainer.is_global_zero) as record:
        changes = {key: value for key, value in config["data"].items() if value is not None}
        data = ImageDataModule(**{**content["datamodule_hyper_parameters"], **changes})
        module = Classifier.load_from_checkpoint(path, map_location="cpu", weights_only=True)
        if data.num_classes > module.num_outputs:
            raise ValueError(
                f"the data has {data.num_classes} classes and the checkpoint's head {module.num_outputs} outputs"
            )
        [metrics] = trainer.validate(module, datamodule=data, verbose=False)
        record.finish(metrics)
    if trainer.is_global_zero:
        console.print_evaluation(path, metrics, content.get("metrics", {}))
    return metrics


if __name__ == "__main__":
    main()
