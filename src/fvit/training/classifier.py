"""The LightningModule: a model, its loss, its optimizer and its metrics."""

from collections.abc import Mapping
from typing import Any

import torch
import torch.nn.functional as F
from lightning import LightningModule
from lightning.pytorch.utilities.types import OptimizerLRScheduler
from timm.optim import create_optimizer_v2
from timm.scheduler import create_scheduler_v2
from timm.scheduler.scheduler import Scheduler
from torch import Tensor
from torch.optim import Optimizer
from torchmetrics import MeanMetric
from torchmetrics.classification import MulticlassAccuracy

from fvit.models import attention_spec, build
from fvit.training.checkpoint import beginning
from fvit.training.losses import build_loss
from fvit.training.sharding import numbered_by_model, shard
from fvit.training.step_means import StepMeans


class Classifier(LightningModule):
    """An image classifier that describes itself: `Classifier.load_from_checkpoint(path)` needs nothing else.

    Its arguments are plain dicts and numbers, so that checkpoints load with ``weights_only=True``.

    Args:
        model: arguments of `fvit.models.build`; `attention` is a mapping with a `name`. And `init_from`, a checkpoint
            of ours or a run's folder (its best one) to begin with: all weights that fit by name and shape are taken.
            Where its attention is another one, it is exchanged, and `keep` says what the new one takes over.
        img_size: side of the images in pixels.
        num_classes: number of labels of the data.
        optimizer: arguments of ``timm.optim.create_optimizer_v2``.
        scheduler: arguments of ``timm.scheduler.create_scheduler_v2``; lengths are in epochs, steps in updates.
        loss: arguments of `fvit.training.build_loss`.

    Raises:
        ValueError: the model's head has fewer outputs than the data has labels; no weight of `init_from` fits.
    """

    def __init__(
        self,
        model: Mapping[str, Any],
        img_size: int,
        num_classes: int,
        optimizer: Mapping[str, Any],
        scheduler: Mapping[str, Any],
        loss: Mapping[str, Any],
    ) -> None:
        super().__init__()
        # Checkpoints of fvit 0.1 also hold model.trim_last, an option that no longer exists.
        model = {name: value for name, value in model.items() if name != "trim_last"}
        self.save_hyperparameters(logger=False)
        options = dict(model)
        if num_classes < 2:
            raise ValueError(f"a classifier needs two classes or more, and the data has {num_classes}")
        outputs = options.pop("num_classes", None) or num_classes
        if outputs < num_classes:
            raise ValueError(
                f"the data has {num_classes} classes and the head {outputs} outputs; "
                f"set model.num_classes={num_classes}, or null to follow the data"
            )
        attention = attention_spec(options.pop("attention", {"name": "native"}))
        init_from = options.pop("init_from", None)
        if init_from is not None:
            options |= beginning(init_from, model)
        self.model = build(img_size=img_size, num_classes=outputs, attention=attention, **options)
        self.num_outputs = outputs
        self._earlier_metrics: dict[str, float] = {}
        self.loss = build_loss(**loss)
        # Looking at all labels, which a GPU would have to wait for, is the loss's part.
        counted = {"average": "micro", "validate_args": False}
        self.step_means = StepMeans()
        self.train_acc1 = MulticlassAccuracy(outputs, **counted)
        self.val_metrics = torch.nn.ModuleDict(
            {
                "loss": MeanMetric(),
                "acc1": MulticlassAccuracy(outputs, **counted),
                "acc5": MulticlassAccuracy(outputs, top_k=min(5, outputs), **counted),
            }
        )

    def facts(self) -> list[tuple[str, str]]:
        """What there is to say of the beginning of training, as names and values."""
        init_from = self.hparams.model.get("init_from")
        return [] if init_from is None else [("start", f"{init_from}: {self.model.inheritance}")]

    def forward(self, images: Tensor) -> Tensor:
        """Map normalised images [B, 3, H, W] to logits [B, outputs]."""
        return self.model(images)

    def training_step(self, batch: tuple[Tensor, Tensor], batch_idx: int) -> Tensor:
        """Loss of one micro batch; logs ``train/loss`` and ``lr`` of the steps that the loggers get."""
        images, targets = batch
        if targets.ndim == 2:
            # A head may have more outputs than the data has classes: those are never right.
            targets = F.pad(targets, (0, self.num_outputs - targets.shape[1]))
        loss, logits = self.objective(images, targets)
        labels = targets.argmax(dim=1) if targets.ndim == 2 else targets
        self.train_acc1.update(logits.detach(), labels)
        if self.step_is_logged:
            self.step_means.add({"train/loss": loss})
            if (batch_idx + 1) % self.trainer.accumulate_grad_batches == 0 or self.trainer.is_last_batch:
                # With layer decay the head's group has the rate that was asked for.
                rate = max(group["lr"] for group in self.trainer.optimizers[0].param_groups)
                self.log_dict({**self.step_means.take(self.trainer.world_size), "lr": rate})
        return loss

    def on_train_epoch_end(self) -> None:
        """Log ``train/acc1``; here, because a run may go on after an epoch's last step."""
        self.log("train/acc1", self.train_acc1)

    @property
    def step_is_logged(self) -> bool:
        """Whether loggers get what this training step logs: Lightning takes its time for a value in any case."""
        return (self.global_step + 1) % self.trainer.log_every_n_steps == 0

    def objective(self, images: Tensor, targets: Tensor) -> tuple[Tensor, Tensor]:
        """What is minimised, a scalar, and the logits [B, outputs].

        Args:
            images: [B, 3, H, W], normalised.
            targets: labels [B], or probabilities [B, outputs].
        """
        logits = self(images)
        return self.loss(logits, targets), logits

    def validation_step(self, batch: tuple[Tensor, Tensor], batch_idx: int) -> Tensor | None:
        """Count one batch into ``val/loss`` (cross-entropy without smoothing), ``val/acc1``, ``val/acc5``.

        Returns:
            the logits [B, outputs], for callbacks; None of a batch without images.
        """
        images, labels = batch
        logits = self(images) if len(labels) else None  # none if all of its images were damaged
        if logits is not None:
            self._count(logits, labels)
        self.log_dict({f"val/{name}": metric for name, metric in self.val_metrics.items()}, on_epoch=True)
        return logits

    def _count(self, logits: Tensor, labels: Tensor) -> None:
        # torchmetrics sums counts over ranks, which stays exact where ranks hold unequal numbers of images.
        self.val_metrics["loss"].update(F.cross_entropy(logits.float(), labels), weight=len(labels))
        for name in ("acc1", "acc5"):
            self.val_metrics[name].update(logits, labels)

    def configure_model(self) -> None:
        """Shard the model where the strategy has laid out a mesh to do so."""
        if self.device_mesh is not None:
            shard(self.model, self.device_mesh["data_parallel"])

    def configure_optimizers(self) -> OptimizerLRScheduler:
        """timm's optimizer with no-decay groups, timm's schedule stepped every update.

        Raises:
            ValueError: the run has no length in epochs or steps, which a schedule needs.
        """
        optimizer = self.build_optimizer()
        options = dict(self.hparams.scheduler)
        if self.trainer.fast_dev_run:  # a step or two have no room for phases
            options = {"sched": "constant"}
        self.trainer.fit_loop.setup_data()  # counts the batches, which a length in steps alone would not
        updates = self.trainer.estimated_stepping_batches
        if updates == float("inf"):
            raise ValueError("the schedule needs the run's length; set trainer.max_epochs or trainer.max_steps")
        per_epoch = -(-self.trainer.num_training_batches // self.trainer.accumulate_grad_batches)
        length = {"num_epochs": updates / per_epoch, "updates_per_epoch": per_epoch, "step_on_epochs": False}
        try:
            scheduler, _ = create_scheduler_v2(optimizer, **length, **options)
        except ValueError as error:
            raise ValueError(
                f"the schedule does not fit into {updates} updates, {per_epoch} an epoch ({error}); "
                "change scheduler.warmup_epochs or scheduler.decay_epochs, or train longer"
            ) from error
        return {"optimizer": optimizer, "lr_scheduler": {"scheduler": scheduler, "interval": "step"}}

    def build_optimizer(self) -> Optimizer:
        """timm's optimizer of all that is trained."""
        return create_optimizer_v2(self.model, **self.hparams.optimizer)

    def on_train_start(self) -> None:
        """Take the rate from the schedule where a run goes on: the optimizer's state brings the one it ended with."""
        for config in self.trainer.lr_scheduler_configs:
            config.scheduler.step_update(self.global_step)

    def lr_scheduler_step(self, scheduler: Scheduler, metric: Any) -> None:
        """timm's schedules are functions of the number of updates."""
        scheduler.step_update(self.global_step)

    def on_save_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        """Note metrics, names of the classes, and that weights come from this file: no other is read when it is loaded.

        The schedule is a function of the number of updates and leaves nothing to restore: a run that goes on with more
        epochs follows its own, longer schedule.
        """
        if self.device_mesh is None and "optimizer_states" in checkpoint:
            pairs = zip(checkpoint["optimizer_states"], self.trainer.optimizers, strict=True)
            checkpoint["optimizer_states"] = [numbered_by_model(state, optimizer, self) for state, optimizer in pairs]
        checkpoint["lr_schedulers"] = [{} for _ in checkpoint["lr_schedulers"]]
        metrics = {name: value.item() for name, value in self.trainer.callback_metrics.items()}
        checkpoint["metrics"] = self._earlier_metrics | metrics
        checkpoint["classes"] = getattr(self.trainer.datamodule, "classes", None)
        hyper_parameters = dict(checkpoint[self.CHECKPOINT_HYPER_PARAMS_KEY])
        hyper_parameters["model"] = {**hyper_parameters["model"], "pretrained": False, "init_from": None}
        checkpoint[self.CHECKPOINT_HYPER_PARAMS_KEY] = hyper_parameters

    def on_load_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        """Keep the metrics that stand until there are new ones."""
        self._earlier_metrics = checkpoint.get("metrics", {})
