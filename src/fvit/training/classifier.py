"""The LightningModule: a model, its loss, its optimizer and its metrics."""

import inspect
from collections.abc import Mapping, Sequence
from typing import Any, Self

import torch
import torch.distributed as dist
import torch.nn.functional as F
from lightning import LightningModule
from lightning.pytorch.utilities.types import OptimizerLRScheduler
from timm.optim import create_optimizer_v2, list_optimizers
from timm.scheduler.scheduler import Scheduler
from torch import Tensor, nn
from torch.optim import Optimizer
from torchmetrics import MeanMetric
from torchmetrics.classification import MulticlassAccuracy

from fvit.config.errors import RunError, did_you_mean
from fvit.config.legacy import migrate_checkpoint, model_options
from fvit.models import attention_spec, build, transfer_weights
from fvit.models.any_size import forward_any_size
from fvit.models.weights import unwrapped
from fvit.training.checkpoint import initial_weights
from fvit.training.classes import counterparts, pretrained_classes
from fvit.training.losses import build_loss
from fvit.training.schedule import build_schedule
from fvit.training.sharding import numbered_by_model, shard


class Classifier(LightningModule):
    """An image classifier with self-contained checkpoints: `Classifier.load_from_checkpoint(path)` needs nothing else.

    Its arguments are plain dicts and numbers, so that checkpoints load with ``weights_only=True``.

    Args:
        model: arguments of `fvit.models.build`, with `attention` as a mapping that has a `name`; and `init_from`, an
            fvit checkpoint or run directory (its best checkpoint), or another file of weights, which are loaded where
            name and shape match, and those of the head where the name of the class matches. If it has another
            attention, that is exchanged, and `keep` says what the new one takes over.
        img_size: side of the images in pixels.
        num_classes: number of classes of the dataset.
        optimizer: arguments of ``timm.optim.create_optimizer_v2``.
        scheduler: arguments of ``timm.scheduler.create_scheduler_v2``; lengths in epochs, stepped every update.
            ``warmup_epochs=None`` is an eighth of the run, at most 5 epochs.
        loss: arguments of `fvit.training.build_loss`.
        classes: names of the dataset's classes; a checkpoint has its own.

    Attributes:
        outputs: the outputs that a validation compares, int64 [classes of its dataset], or None for all.

    Raises:
        ValueError: the head has fewer outputs than the dataset has classes; no weight of `init_from` fits.
    """

    def __init__(
        self,
        model: Mapping[str, Any],
        img_size: int,
        num_classes: int,
        optimizer: Mapping[str, Any],
        scheduler: Mapping[str, Any],
        loss: Mapping[str, Any],
        classes: Sequence[str] | None = None,
    ) -> None:
        super().__init__()
        model = model_options(model)  # of a checkpoint of version 0.1
        self.save_hyperparameters(ignore="classes", logger=False)
        self.classes = classes
        options = dict(model)
        if num_classes < 2:
            raise ValueError(f"a classifier needs at least two classes, and the dataset has {num_classes}")
        outputs = options.pop("num_classes", None) or num_classes
        if outputs < num_classes:
            raise ValueError(
                f"the dataset has {num_classes} classes and the head {outputs} outputs; "
                f"set model.num_classes={num_classes}, or null to follow the dataset"
            )
        attention = attention_spec(options.pop("attention", {"name": "native"}))
        init_from = options.pop("init_from", None)
        if init_from is not None:
            options |= initial_weights(init_from, model, classes)
        self.model = build(img_size=img_size, num_classes=outputs, attention=attention, **options)
        if model.get("pretrained") and classes is not None:
            _order_pretrained_head(self.model, classes)
        self.num_outputs = outputs
        self.earlier_metrics: dict[str, float] = {}
        self.loss = build_loss(**loss)
        self.step_means = StepMeans()
        self._num_validated = 0
        self.train_acc1 = accuracy(outputs)
        self.register_buffer("outputs", None, persistent=False)
        self._compare(outputs)

    @classmethod
    def restore(cls, content: dict[str, Any]) -> Self:
        """The module of a checkpoint as `fvit.training.checkpoint.read` returns it; a student comes without teacher."""
        parameters = content["hyper_parameters"]
        module = cls(**{name: parameters[name] for name in inspect.signature(cls).parameters if name in parameters})
        module.on_load_checkpoint(content)
        module.load_state_dict(content["state_dict"])
        return module

    def select(self, outputs: Sequence[int] | None) -> None:
        """Validate with these outputs alone, in the order of the dataset's classes; with all if None."""
        if outputs is not None:
            self.outputs = torch.tensor(outputs, device=self.device)
            self._compare(len(outputs))

    def _compare(self, outputs: int) -> None:
        """Build the metrics of a validation, for logits of so many outputs."""
        top5 = accuracy(outputs, top_k=min(5, outputs))
        self.val_metrics = torch.nn.ModuleDict({"loss": MeanMetric(), "acc1": accuracy(outputs), "acc5": top5})

    def facts(self) -> list[tuple[str, str]]:
        """Names and values for the summary that is printed before training."""
        init_from = self.hparams.model.get("init_from")
        return [] if init_from is None else [("start", f"{init_from}: {self.model.weight_transfer}")]

    def forward(self, images: Tensor) -> Tensor:
        """Normalised images [B, 3, H, W], with data.size_schedule smaller ones, to logits [B, outputs]."""
        return forward_any_size(self.model, images)

    def training_step(self, batch: tuple[Tensor, Tensor], batch_idx: int) -> Tensor:
        """Loss of one micro batch; logs ``train/loss`` and ``lr`` of the steps that loggers receive."""
        images, targets = batch
        if targets.ndim == 2:
            # Outputs beyond the classes of the dataset are never right.
            targets = F.pad(targets, (0, self.num_outputs - targets.shape[1]))
        loss, logits = self.objective(images, targets)
        labels = targets.argmax(dim=1) if targets.ndim == 2 else targets
        self.train_acc1.update(logits.detach(), labels)
        if self.step_is_logged:
            self.step_means.add({"train/loss": loss})
            if (batch_idx + 1) % self.trainer.accumulate_grad_batches == 0 or self.trainer.is_last_batch:
                # With layer decay the head's group has the configured learning rate.
                rate = max(group["lr"] for group in self.trainer.optimizers[0].param_groups)
                self.log_dict({**self.step_means.take(self.trainer.world_size), "lr": rate})
        return loss

    def on_train_epoch_end(self) -> None:
        # Not in the last step: a run may resume after it.
        self.log("train/acc1", self.train_acc1)

    @property
    def step_is_logged(self) -> bool:
        """Whether loggers receive what this training step logs; Lightning processes logged values in any case."""
        return (self.global_step + 1) % self.trainer.log_every_n_steps == 0

    def objective(self, images: Tensor, targets: Tensor) -> tuple[Tensor, Tensor]:
        """The loss, a scalar, and the logits [B, outputs].

        Args:
            images: [B, 3, H, W], normalised.
            targets: class indices [B] or probabilities [B, outputs].
        """
        logits = self(images)
        return self.loss(logits, targets), logits

    def validation_step(self, batch: tuple[Tensor, Tensor], batch_idx: int) -> Tensor | None:
        """Update ``val/loss`` (cross-entropy without smoothing), ``val/acc1`` and ``val/acc5``.

        Returns:
            the logits [B, outputs] of the selected outputs, for callbacks; None for a batch without images.
        """
        images, labels = batch
        logits = self(images) if len(labels) else None  # all of its images may have been damaged
        if logits is not None and self.outputs is not None:
            logits = logits[:, self.outputs]
        self._num_validated += len(labels)
        if logits is not None:
            # torchmetrics sums counts over ranks, which is exact for unequal numbers of images.
            self.val_metrics["loss"].update(F.cross_entropy(logits.float(), labels), weight=len(labels))
            for name in ("acc1", "acc5"):
                self.val_metrics[name].update(logits, labels)
        self.log_dict({f"val/{name}": metric for name, metric in self.val_metrics.items()}, on_epoch=True)
        return logits

    def on_validation_epoch_start(self) -> None:
        self._num_validated = 0

    def on_validation_batch_end(self, outputs: Tensor | None, batch: Any, batch_idx: int) -> None:
        """Refuse a validation without images, whose accuracy would be 0 %."""
        if batch_idx + 1 == self.trainer.num_val_batches[0]:
            total = torch.tensor(self._num_validated, device=self.device)
            if not self.trainer.strategy.reduce(total, reduce_op="sum"):
                latest = self.trainer.datamodule.faults.latest()
                raise RunError(f"none of the validation images could be read; the last: {latest}")

    def configure_model(self) -> None:
        if self.device_mesh is not None:  # FSDP
            shard(self.model, self.device_mesh["data_parallel"])

    def configure_optimizers(self) -> OptimizerLRScheduler:
        """timm's optimizer with no-decay groups, and timm's schedule, stepped every update.

        Raises:
            ValueError: the run has no length, or the schedule does not fit into it.
        """
        optimizer = self.build_optimizer()
        self.trainer.fit_loop.setup_data()  # counts the batches, also where the length is given in steps
        updates = self.trainer.estimated_stepping_batches
        if updates == float("inf"):
            raise ValueError("the schedule needs the length of the run; set trainer.max_epochs or trainer.max_steps")
        per_epoch = -(-self.trainer.num_training_batches // self.trainer.accumulate_grad_batches)
        scheduler = self.build_schedule(optimizer, updates, per_epoch)
        return {"optimizer": optimizer, "lr_scheduler": {"scheduler": scheduler, "interval": "step"}}

    def build_optimizer(self) -> Optimizer:
        options = self.hparams.optimizer
        try:
            return create_optimizer_v2(self.model, **options)
        except (ValueError, TypeError, AssertionError, ImportError, RuntimeError) as error:  # of timm, torch or apex
            near = did_you_mean(options["opt"], list_optimizers()) if "not found" in str(error) else ""
            raise ValueError(f"optimizer.opt={options['opt']} cannot be built: {error}{near}") from error

    def build_schedule(self, optimizer: Optimizer, updates: int, per_epoch: int) -> Scheduler:
        # A fast_dev_run is too short for a warmup.
        options = {"sched": "constant"} if self.trainer.fast_dev_run else self.hparams.scheduler
        return build_schedule(optimizer, options, updates, per_epoch)

    def on_train_start(self) -> None:
        # A resumed optimizer has the learning rate it ended with, not that of the schedule.
        for config in self.trainer.lr_scheduler_configs:
            config.scheduler.step_update(self.global_step)

    def lr_scheduler_step(self, scheduler: Scheduler, metric: Any) -> None:
        scheduler.step_update(self.global_step)

    def on_save_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        """Make the checkpoint self-contained: metrics, class names, and no other file to load weights from.

        The schedule is a function of the number of updates and has no state: a run that resumes with more epochs
        follows its own, longer schedule.
        """
        if self.device_mesh is None and "optimizer_states" in checkpoint:
            pairs = zip(checkpoint["optimizer_states"], self.trainer.optimizers, strict=True)
            checkpoint["optimizer_states"] = [numbered_by_model(state, optimizer, self) for state, optimizer in pairs]
        checkpoint["lr_schedulers"] = [{} for _ in checkpoint["lr_schedulers"]]
        metrics = {name: value.item() for name, value in self.trainer.callback_metrics.items()}
        checkpoint["metrics"] = self.earlier_metrics | metrics
        checkpoint["classes"] = getattr(self.trainer.datamodule, "classes", self.classes)
        hyper_parameters = dict(checkpoint[self.CHECKPOINT_HYPER_PARAMS_KEY])
        hyper_parameters["model"] = {**hyper_parameters["model"], "pretrained": False, "init_from": None}
        checkpoint[self.CHECKPOINT_HYPER_PARAMS_KEY] = hyper_parameters

    def on_load_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        migrate_checkpoint(checkpoint)  # before callbacks look for their states
        if "state_dict" in checkpoint:  # a sharded one is read in place
            checkpoint["state_dict"] = unwrapped(checkpoint["state_dict"])
        self.classes = self.classes or checkpoint.get("classes")
        self.earlier_metrics = checkpoint.get("metrics", {})


def _order_pretrained_head(model: nn.Module, classes: Sequence[str]) -> None:
    """Give the outputs of published weights the order of the dataset's classes, if those are the same."""
    names = pretrained_classes(model)
    if names is None or model.pretrained_cfg.get("num_classes") != model.num_classes:  # a new head
        return
    found = counterparts(classes, names)
    if None not in found and found != list(range(len(names))):
        transfer_weights(model, model.state_dict(), found)


def accuracy(outputs: int, **options: Any) -> MulticlassAccuracy:
    """The share of images classified correctly; it does not check the labels, because that would make a GPU wait."""
    return MulticlassAccuracy(outputs, average="micro", validate_args=False, **options)


class StepMeans:
    """Mean losses of an optimizer step over its micro batches and over all ranks.

    All micro batches have equally many images, so the mean of means is the mean over the global batch, which one
    process would have computed. It takes one collective of a few numbers per step, next to that of the gradients.
    """

    def __init__(self) -> None:
        self._values: dict[str, list[Tensor]] = {}

    def add(self, values: Mapping[str, Tensor]) -> None:
        """Add the losses of one micro batch, scalars."""
        for name, value in values.items():
            self._values.setdefault(name, []).append(value.detach())

    def take(self, world_size: int) -> dict[str, Tensor]:
        """The means since the last call; a collective operation."""
        values, self._values = self._values, {}
        means = torch.stack([torch.stack(losses).mean() for losses in values.values()])
        if world_size > 1:
            dist.all_reduce(means)
            means /= world_size
        return dict(zip(values, means, strict=True))
