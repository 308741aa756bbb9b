"""fvit-train: train a vision transformer whose attention is exchanged."""

from pathlib import Path
from typing import TYPE_CHECKING, Any

from fvit.config.batch_plan import plan_batches
from fvit.config.schemas.train import Train
from fvit.launch import cli, resume

if TYPE_CHECKING:
    from fvit.data import ImageDataModule
    from fvit.training import Classifier


def main() -> None:
    """The command line."""
    cli.run("train", train, Train, resume.expand_arguments, resume.find_checkpoint)


def train(config: dict[str, Any]) -> dict[str, float]:
    """Train as `config` says, and return the metrics that also stand in the run's metrics.json.

    Args:
        config: a resolved configuration that `fvit.config.validation.check` has passed.
    """
    # Imported here, because composing, --help and a wrong override must not wait for torch.
    from lightning import seed_everything
    from lightning.pytorch.callbacks import LambdaCallback

    from fvit.config.budget import meet_budget
    from fvit.cost import count
    from fvit.data import ImageDataModule
    from fvit.launch import console, disk
    from fvit.launch.allocator import keep_freed_memory
    from fvit.launch.run_dir import Record
    from fvit.loggers.wandb_media import add_media
    from fvit.models import exchange_rows
    from fvit.models.maps import attention_maps
    from fvit.training import CollectAnswers, checkpoint, runtime_flags
    from fvit.training import trainer as trainers

    keep_freed_memory()
    if config["ckpt_path"] == resume.LAST:
        config = resume.find_checkpoint(config)
    seed_everything(config["seed"], workers=True, verbose=False)
    trainer = trainers.build(config)
    folder = Path(config["output_dir"])
    active, goes_on = trainer.is_global_zero, resume.goes_on(config)
    recording = Record(folder, config, active, goes_on)
    with recording as record, disk.explaining(folder), trainers.closing(trainer):
        plan = plan_batches(config["global_batch_size"], trainer.world_size, config["micro_batch_size"])
        data = ImageDataModule(
            **config["data"], batch_size=plan.per_device, accumulate=plan.accumulate, seed=config["seed"]
        )
        trainers.apply_plan(trainer, plan, len(data.source.train))
        add_media(trainer, CollectAnswers, attention_maps)
        size = config["data"]["img_size"]
        model, told = meet_budget(config["model"], size, data.num_classes)
        config = record.amend({**config, "model": model})
        module = build_module(config, data)
        cost = count(module.model, size)
        before = {}
        if config["ckpt_path"] is not None:
            resumed = checkpoint.find(config["ckpt_path"], prefer="last")
            content = checkpoint.read(resumed)
            checkpoint.check_fits(content, resumed, module)
            before = content.get("metrics", {})
            del content
        runtime_flags.set_up(config, module, data)
        if trainer.is_global_zero:
            console.print_plan(config, cost, plan, data, [*told, *module.facts()])
            console.print_exchange(config["model"], exchange_rows(module.model))
            trainers.log_beginning(trainer, config, cost, data)
        trainer.callbacks.append(LambdaCallback(on_save_checkpoint=lambda *_: record.note_time()))
        # Ranks build the same model, then augment differently.
        seed_everything(config["seed"] + trainer.global_rank, workers=True, verbose=False)
        trainer.fit(module, datamodule=data, ckpt_path=config["ckpt_path"] and str(resumed), weights_only=True)
        metrics = record.finish(trainers.results(trainer, cost, before), trainers.status(trainer))
        trainers.log_results(trainer, metrics)
    if trainer.is_global_zero:
        console.print_results(config["title"], metrics, record.seconds, folder)
    return metrics


def build_module(config: dict[str, Any], data: "ImageDataModule") -> "Classifier":
    """The LightningModule of a checked configuration, with a head for the classes of `data`."""
    from fvit.training import Classifier, Distiller

    arguments = {key: config[key] for key in ("model", "optimizer", "scheduler", "loss")}
    arguments |= {"img_size": config["data"]["img_size"], "num_classes": data.num_classes}
    if config["distillation"] is None:
        return Classifier(**arguments)
    normalisation = {key: config["data"][key] for key in ("mean", "std")}
    return Distiller(**arguments, **normalisation, distillation=config["distillation"])


if __name__ == "__main__":
    main()
