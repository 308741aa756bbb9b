"""fvit-eval: evaluate a checkpoint on its validation images."""

import inspect
from pathlib import Path
from typing import TYPE_CHECKING, Any

from fvit.config.errors import ConfigError
from fvit.config.overrides import argument
from fvit.config.schemas.eval import Eval
from fvit.launch import cli

if TYPE_CHECKING:
    from fvit.data import ImageDataModule
    from fvit.training import Classifier


def main() -> None:
    """The command line."""
    cli.run("eval", evaluate, Eval)


def evaluate(config: dict[str, Any]) -> dict[str, float]:
    """Validate the checkpoint at ``config["ckpt_path"]``; returns val/loss, val/acc1 and val/acc5, or a probe's."""
    # Imported here, because --help, completion and a wrong override must not wait for torch.
    from fvit.cost import count
    from fvit.launch.console import print_evaluation
    from fvit.launch.run_dir import RunDir
    from fvit.training import checkpoint, runtime_flags
    from fvit.training.trainer import build_trainer

    if config["tiny"] is not None:
        large, tiny = argument("large", config["ckpt_path"]), argument("tiny", config["tiny"])
        raise ConfigError(f"fvit-eval evaluates one checkpoint; a cascade of two: fvit-cascade {large} {tiny}")
    path = checkpoint.find(config["ckpt_path"])
    content = checkpoint.read(path)
    trainer = build_trainer(config)
    module, data = load(path, content, config["data"], match_classes=config["probe"] is None)
    cost = count(module.model, data.hparams.img_size)
    runtime_flags.set_up(config, module, data)
    with RunDir(config, trainer) as run:
        run.log_start(data, cost.metrics(), model=content["hyper_parameters"]["model"], **dict(compared(module, data)))
        if config["probe"] is None:
            [metrics] = trainer.validate(module, data, verbose=False)
            facts = compared(module, data)
        else:
            from fvit.probe import evaluate_probe  # which loads scikit-learn

            metrics, facts = evaluate_probe(module, data, trainer, config["probe"])
        run.finish(metrics)
    if trainer.is_global_zero:
        print_evaluation(path, metrics, content.get("metrics", {}), facts)
    return metrics


def load(
    path: Path, content: dict[str, Any], asked: dict[str, Any], match_classes: bool = True
) -> "tuple[Classifier, ImageDataModule]":
    """A checkpoint's model, and the dataset on which it is evaluated.

    Args:
        path: the checkpoint.
        content: what `fvit.training.checkpoint.read` returns for it.
        asked: arguments of the DataModule that replace those of training, unless None; another source (``name``) also
            replaces the source's own arguments.
        match_classes: select the outputs of the dataset's classes; a probe needs none.

    Raises:
        ValueError: the source does not take an argument, or has a class that the model does not know.
    """
    from fvit.data import SOURCES, ImageDataModule
    from fvit.training import Classifier
    from fvit.training.classes import select_outputs

    trained = content["datamodule_hyper_parameters"]
    changes = {key: value for key, value in asked.items() if value is not None}
    name = changes.get("name", trained["name"])
    if name not in SOURCES:
        raise ValueError(f"unknown data source '{name}'; known: {', '.join(SOURCES)}")
    own, before = (inspect.signature(SOURCES[source]).parameters for source in (name, trained["name"]))
    if "root" in changes and "root" not in own:
        raise ValueError(f"data.root has no effect with data.name={name}; set data.name=folder as well")
    options = {**trained, **changes}
    data = ImageDataModule(**{key: options[key] for key in options if key in own or key not in before})
    module = Classifier.restore(content)
    if match_classes:
        module.select(
            select_outputs(data.classes, module.classes, module.hparams.num_classes, module.num_outputs, str(path))
        )
    return module, data


def compared(module: "Classifier", data: "ImageDataModule") -> list[tuple[str, str]]:
    """What the accuracies of a module that `load` returns compare, if not all its outputs as they are."""
    from fvit.training.classes import abbreviate

    if module.outputs is None:
        return []
    if len(module.outputs) < module.num_outputs:
        what = f"{data.num_classes} of the model's {module.num_outputs}, and the accuracies compare these outputs alone"
    else:
        what = "those of the model in another order"
    return [("classes", f"{what}; matched by name: {abbreviate(data.classes)}")]


if __name__ == "__main__":
    main()
