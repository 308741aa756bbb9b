"""fvit-train: train a vision transformer with exchangeable attention."""

import logging
from typing import TYPE_CHECKING, Any

from fvit import data_defaults
from fvit.config.batch_plan import plan_batches
from fvit.config.schemas.train import Train
from fvit.launch import cli, resume
from fvit.launch.devices import world_size

if TYPE_CHECKING:
    from fvit.config.batch_plan import BatchPlan
    from fvit.data import ImageDataModule
    from fvit.training import Classifier

data_defaults.register()
log = logging.getLogger(__name__)

# The learning rates above which a recipe is one for random weights: of SGD, and of optimizers with adaptive steps.
_FROM_SCRATCH = {True: 5e-2, False: 1e-3}


def main() -> None:
    """The command line."""
    cli.run("train", train, Train, resume.expand_arguments, resume.find_checkpoint)


def train(config: dict[str, Any]) -> dict[str, float]:
    """Train, and return the metrics that are also in the run's metrics.json.

    Args:
        config: a resolved configuration that `fvit.config.validation.check` has accepted.
    """
    # Imported here, because --help, completion and a wrong override must not wait for torch.
    from lightning import seed_everything

    from fvit.cost import count
    from fvit.cost.match import meet_budget
    from fvit.launch.allocator import keep_freed_memory
    from fvit.launch.console import print_exchange, print_plan, print_results
    from fvit.launch.run_dir import RunDir
    from fvit.models import exchange_rows
    from fvit.models.any_size import check_sizes
    from fvit.models.naflex import check_naflex
    from fvit.training import checkpoint, runtime_flags
    from fvit.training.trainer import build_trainer, results, test

    keep_freed_memory()
    if config["ckpt_path"] == resume.LAST:
        config = resume.find_checkpoint(config)
    seed_everything(config["seed"], workers=True, verbose=False)
    plan = plan_batches(config["global_batch_size"], world_size(config["trainer"]), config["micro_batch_size"])
    data = build_data(config, plan)
    config, budget = meet_budget(config, data.num_classes)
    module = build_module(config, data)
    cost = count(module.model, config["data"]["img_size"])
    module.macs = cost.macs
    resumed = checkpoint.find_resumable(config["ckpt_path"], module)
    check_sizes(module.model, config["data"].get("size_schedule") or (), config["grad_checkpointing"])
    if patch_size := config["data"].get("naflex"):
        check_naflex(module.model, patch_size)
    runtime_flags.set_up(config, module, data)
    trainer = build_trainer(config, plan, len(data.source.train))
    with RunDir(config, trainer) as run:
        run.log_start(data, cost.metrics())
        if trainer.is_global_zero:
            warn_of_recipe(config)
            print_plan(config, cost, plan, data, [*budget, *module.facts(), *data.facts()])
            print_exchange(config["model"], exchange_rows(module.model))
        # Ranks build the same model, then draw different augmentations and dropout.
        seed_everything(config["seed"] + trainer.global_rank, workers=True, verbose=False)
        trainer.fit(module, data, ckpt_path=resumed, weights_only=True)
        metrics = {**module.earlier_metrics, **results(trainer), **cost.metrics()}
        metrics = run.finish({**metrics, **test(trainer, module, data)})
    if trainer.is_global_zero:
        print_results(config["title"], metrics, run.seconds, run.path, config["trainer"]["max_epochs"])
    return metrics


def warn_of_recipe(config: dict[str, Any]) -> None:
    """Warn if pretrained weights would be trained as if they were random."""
    optimizer, model = config["optimizer"], config["model"]
    large = optimizer["lr"] > _FROM_SCRATCH["sgd" in optimizer["opt"]] and optimizer["layer_decay"] is None
    if model.get("pretrained") and model["freeze"] is None and large:
        log.warning(
            "optimizer.lr=%g without layer decay is a recipe for random weights; experiment=finetune is one for these, "
            "with small steps that decay towards the input",
            optimizer["lr"],
        )


def build_data(config: dict[str, Any], plan: "BatchPlan") -> "ImageDataModule":
    """The LightningDataModule, with the batch size of one device."""
    from fvit.data import ImageDataModule

    return ImageDataModule(
        **config["data"], batch_size=plan.per_device, accumulate=plan.accumulate, seed=config["seed"]
    )


def build_module(config: dict[str, Any], data: "ImageDataModule") -> "Classifier":
    """The LightningModule, with a head for the classes of `data`."""
    from fvit.training import Classifier, Distiller, StagedDistiller

    arguments = {key: config[key] for key in ("model", "optimizer", "scheduler", "loss")}
    arguments |= {"img_size": config["data"]["img_size"], "num_classes": data.num_classes, "classes": data.classes}
    if config["distillation"] is None:
        return Classifier(**arguments)
    normalisation = {key: config["data"][key] for key in ("mean", "std")}
    cls = StagedDistiller if config["distillation"].get("stages") else Distiller
    return cls(**arguments, **normalisation, distillation=config["distillation"])


if __name__ == "__main__":
    main()
