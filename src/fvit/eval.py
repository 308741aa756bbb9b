"""fvit-eval: measure a checkpoint on its validation images."""

from pathlib import Path
from typing import Any

from fvit.run import cli, schema
from fvit.run.signature import source_signature


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
        data = ImageDataModule(**_data_options(content["datamodule_hyper_parameters"], config["data"]))
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


def _data_options(trained: dict[str, Any], asked: dict[str, Any]) -> dict[str, Any]:
    """The DataModule's arguments as in training, with what is asked for; another source drops the first one's."""
    changes = {key: value for key, value in asked.items() if value is not None}
    name = changes.get("name", trained["name"])
    of_source = source_signature(name)
    if "root" in changes and "root" not in of_source:
        raise ValueError(f"data.root has no meaning for data.name={name}; set data.name=folder as well")
    of_any = trained.keys() - source_signature(trained["name"]).keys()
    return {key: value for key, value in {**trained, **changes}.items() if key in of_any or key in of_source}


if __name__ == "__main__":
    main()
