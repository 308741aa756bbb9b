"""fvit-eval: evaluate a checkpoint, or a model with published weights, on validation or test images."""

import inspect
import logging
from pathlib import Path
from typing import TYPE_CHECKING, Any

from fvit.config.errors import ConfigError
from fvit.config.overrides import argument
from fvit.config.schemas.eval import Eval
from fvit.launch import cli

if TYPE_CHECKING:
    from fvit.data import ImageDataModule
    from fvit.training import Classifier
    from fvit.training.trained import Trained
    from fvit.training.zero_shot import ImageText

log = logging.getLogger(__name__)


def main() -> None:
    """The command line."""
    cli.run("eval", evaluate, Eval)


def evaluate(config: dict[str, Any]) -> dict[str, float]:
    """Evaluate the checkpoint, the ``pretrained`` or the ``zero_shot`` model; returns val/loss, val/acc1 and so on."""
    # Imported here, because --help, completion and a wrong override must not wait for torch.
    from fvit.callbacks.scores import EvalScores
    from fvit.cost import count
    from fvit.data.inference import display_names
    from fvit.launch.console import print_evaluation
    from fvit.launch.run_dir import RunDir
    from fvit.reports.scores import print_scores
    from fvit.training import runtime_flags
    from fvit.training.trained import open_trained
    from fvit.training.trainer import build_trainer
    from fvit.training.views import VIEWS, AveragedViews
    from fvit.training.zero_shot import classify, open_image_text

    if config["tiny"] is not None:
        large, tiny = argument("large", config["ckpt_path"]), argument("tiny", config["tiny"])
        raise ConfigError(f"fvit-eval evaluates one checkpoint; a cascade of two: fvit-cascade {large} {tiny}")
    probe, zero_shot, size = config["probe"], config["zero_shot"], config["data"]["img_size"]
    if zero_shot is None:
        plain = probe is None and config["tta"] is None
        trained = open_trained(config["ckpt_path"], config["pretrained"], size, probe is not None, naflex=plain)
    else:
        trained = open_image_text(zero_shot, config["pretrained"], size)
    trainer = build_trainer(config)
    crops, flip = VIEWS.get(config["tta"], (1, False))
    has_outputs = probe is None and zero_shot is None
    data = load(trained, {**config["data"], "eval_crops": crops}, match_classes=has_outputs)
    if config["split"] == "test" and data.source.test is None:
        raise ConfigError(f"split=test: {data.hparams.name} has no test images here; leave it out")
    if probe is not None and not len(data.source.train):
        raise ConfigError(
            f"probe={probe['name']} is fitted to training images, and data.name={data.hparams.name} has none here: "
            "take data that has, for example a folder with data.val_split=0.2"
        )
    if zero_shot is None:
        module = trained.module
        facts = compared(module, data)
    else:
        module, facts = classify(trained, data.classes, config["templates"], trainer.strategy.root_device)
    cost = count(module.model, data.hparams.img_size)
    if config["tta"] is not None:
        module.model = AveragedViews(module.model, crops, flip)
        facts.append(("views", f"{crops * (1 + flip)} per image, averaged; the cost of a prediction grows as much"))
    runtime_flags.set_up(config, module, data)
    with RunDir(config, trainer) as run:
        run.log_start(data, cost.metrics(), model=module.hparams.model, **dict(facts))
        if probe is None:
            [metrics] = (trainer.test if config["split"] == "test" else trainer.validate)(module, data, verbose=False)
        else:
            from fvit.probe import evaluate_probe  # which loads scikit-learn

            metrics, facts = evaluate_probe(module, data, trainer, probe)
        run.finish(metrics)
    if trainer.is_global_zero:
        print_evaluation(trained.owner, metrics, trained.metrics, facts)
        for callback in trainer.callbacks:
            if probe is None and isinstance(callback, EvalScores):
                print_scores(callback.scores, display_names(data.classes, module.num_outputs))
    return metrics


def load(trained: "Trained | ImageText", asked: dict[str, Any], match_classes: bool = True) -> "ImageDataModule":
    """The dataset on which a model is evaluated; the model's outputs for its classes are selected.

    Args:
        trained: the model.
        asked: arguments of the DataModule that replace those of training, unless None; another source (``name``) also
            replaces the source's own arguments.
        match_classes: False selects no outputs, for an evaluation that does not use them.

    Raises:
        ValueError: the source does not take an argument, or has a class that the model does not know.
    """
    from fvit.data import SOURCES, ImageDataModule
    from fvit.training.classes import select_outputs

    changes = {key: value for key, value in asked.items() if value is not None}
    before = trained.data.get("name")
    name = changes.get("name", before)
    if name is None:
        raise ValueError(f"{trained.owner} has no dataset of its own: set data.name=… and data.root=DIR")
    if name not in SOURCES:
        raise ValueError(f"unknown data source '{name}'; known: {', '.join(SOURCES)}")
    own, known = (inspect.signature(SOURCES[source]).parameters if source else {} for source in (name, before))
    for key in ("root", "val_split", "test_split", "split_seed"):
        if key in changes and key not in own:
            raise ValueError(f"data.{key} has no effect with data.name={name}; set data.name=folder as well")
    if changes.get("val_split") == 1:
        changes.setdefault("test_split", 0)
    unsplit = {key: None for key in ("val_split", "test_split") if changes.get(key) == 0}
    if "root" in changes:  # its own folders come before the shares of training
        folder = Path(changes["root"]).expanduser()
        sets = {"val_split": folder / "val", "test_split": folder / "test"}
        unsplit |= {key: None for key, path in sets.items() if key not in changes and path.is_dir()}
    options = {**trained.data, **changes, **unsplit, "name": name}
    data = ImageDataModule(**{key: options[key] for key in options if key in own or key not in known})
    if trained.held_out and data.records not in ("", trained.held_out) and "val_split" not in changes:
        log.warning(
            "%s: other images are held out than in training, because files were added, removed or renamed, or because "
            "this is another folder; the model may have been trained on some of them. data.val_split=1 evaluates all",
            data.hparams.root,
        )
    if match_classes:
        module = trained.module
        known = module.classes, module.hparams.num_classes, module.num_outputs
        module.select(select_outputs(data.classes, *known, trained.owner))
    return data


def compared(module: "Classifier", data: "ImageDataModule") -> list[tuple[str, str]]:
    """What the accuracies of a module compare after `load`, if not all its outputs as they are."""
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
