"""The LightningModule: a model, its loss, its optimizer and its metrics."""

import inspect
import logging
from collections.abc import Mapping, Sequence
from typing import Any, Self

import torch
import torch.nn.functional as F
from lightning import LightningModule
from lightning.pytorch.trainer.states import TrainerFn
from lightning.pytorch.utilities.types import OptimizerLRScheduler
from timm.scheduler.scheduler import Scheduler
from torch import Tensor, nn
from torch.optim import Optimizer

from fvit.config.errors import RunError
from fvit.config.legacy import FORMAT, migrate_checkpoint
from fvit.models import attention_spec, build
from fvit.models.any_size import forward_any_size
from fvit.models.hosts import ignore_rope
from fvit.models.start import log_resampling
from fvit.models.weights import unwrapped
from fvit.training.arguments import LOSS, OPTIMIZER, SCHEDULER, count_classes, module_and_options
from fvit.training.classes import check_same, order_pretrained_head, select_outputs
from fvit.training.freezing import Frozen
from fvit.training.initial import initial_weights, start_facts
from fvit.training.losses import build_loss
from fvit.training.metrics import EvalMetrics, StepMeans, accuracy
from fvit.training.optimization import build_optimizer, build_scheduler, scheduled_rate
from fvit.training.resizing import load_all, resize_checkpoint
from fvit.training.sharding import numbered_by_model, shard

log = logging.getLogger(__name__)


class Classifier(LightningModule):
    """An image classifier with self-contained checkpoints: `Classifier.load_from_checkpoint(path)` needs nothing else.

    Its arguments are plain dicts and numbers, so that checkpoints load with ``weights_only=True``.

    Args:
        model: a module that maps images to logits; its checkpoints have its weights alone, and load with
            ``Classifier.load_from_checkpoint(path, model=…)``. Or, for checkpoints that can build it, arguments of
            `fvit.models.build`, with `attention` as a mapping that has a `name`; and `init_from`, an fvit checkpoint
            or run directory (its best checkpoint), or another file of weights, which are loaded where name and shape
            match, and those of the head where the name of the class matches. If it has another attention, that is
            exchanged, and `keep` says what the new one takes over. `freeze` is what `Frozen` takes.
        img_size: of the images in pixels: the side of squares, or height and width.
        num_classes: number of classes of the dataset; None means those of `classes` or, without names, of the model.
        optimizer: arguments of `fvit.training.optimization.build_optimizer`.
        scheduler: arguments of `fvit.training.optimization.build_scheduler`.
        loss: arguments of `fvit.training.build_loss`.
        classes: names of the dataset's classes; a checkpoint has its own.

    Attributes:
        frozen: the part of the model that does not learn.
        outputs: the outputs that an evaluation compares, int64 [classes of its dataset], or None for all.

    Raises:
        ValueError: the head has fewer outputs than the dataset has classes; no weight of `init_from` fits.
    """

    def __init__(
        self,
        model: Mapping[str, Any] | nn.Module,
        img_size: int | Sequence[int] = 224,
        num_classes: int | None = None,
        optimizer: Mapping[str, Any] = OPTIMIZER,
        scheduler: Mapping[str, Any] = SCHEDULER,
        loss: Mapping[str, Any] = LOSS,
        classes: Sequence[str] | None = None,
    ) -> None:
        super().__init__()
        module, model = module_and_options(model)
        num_classes = count_classes(model, classes) if num_classes is None else num_classes
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
        freeze = options.pop("freeze", None)
        init_from = options.pop("init_from", None)
        if init_from is not None:
            options |= initial_weights(init_from, model, classes)
        if module is None:
            module = build(img_size=img_size, num_classes=outputs, attention=attention, **options)
        self.model = module
        if model.get("pretrained") and classes is not None:
            order_pretrained_head(self.model, classes)
        self.frozen = Frozen(self.model, freeze)
        self.num_outputs = outputs
        self.earlier_metrics: dict[str, float] = {}
        self.loss = build_loss(**loss)
        self.step_means = StepMeans()
        self.train_acc1 = accuracy(outputs)
        self.register_buffer("outputs", None, persistent=False)
        self.val_metrics = EvalMetrics(outputs)

    @classmethod
    def restore(cls, content: dict[str, Any], img_size: int | Sequence[int] | None = None) -> Self:
        """The module of a checkpoint as `fvit.training.checkpoint.read` returns it; a student comes without teacher.

        For images of another `img_size` than in training, positions are resampled.

        Raises:
            ValueError: the model does not run on images of `img_size`.
        """
        trained = content["hyper_parameters"]
        parameters = trained if img_size is None else {**trained, "img_size": img_size}
        module = cls(**{name: parameters[name] for name in inspect.signature(cls).parameters if name in parameters})
        module._adopt(content)
        load_all(module.model, content["state_dict"], trained["img_size"])
        log_resampling(module.model, trained["img_size"])
        return module

    def select(self, outputs: Sequence[int] | None) -> bool:
        """Evaluate with these outputs alone, in the dataset's order, or with all; returns whether that is a change."""
        if outputs == (None if self.outputs is None else self.outputs.tolist()):
            return False
        self.outputs = None if outputs is None else torch.tensor(outputs, device=self.device)
        self.val_metrics = EvalMetrics(self.num_outputs if outputs is None else len(outputs)).to(self.device)
        self._metric_attributes = None  # in which Lightning remembers the former metrics
        return True

    def facts(self) -> list[tuple[str, str]]:
        """Names and values for the summary that is printed before training."""
        return [*start_facts(self.hparams.model, self.model), *self.frozen.facts()]

    def train(self, mode: bool = True) -> Self:
        """Set the mode of all modules but the frozen ones, which stay in evaluation mode."""
        super().train(mode)
        self.frozen.evaluate()
        return self

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
                rate = scheduled_rate(self.trainer.optimizers[0])
                self.log_dict({**self.step_means.take(self.trainer.world_size), "lr": rate})
        return loss

    def on_train_epoch_end(self) -> None:
        self.log("train/acc1", self.train_acc1)  # not in the last step: a run may resume after it

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
        """Update ``val/loss``, ``val/acc1`` and ``val/acc5``.

        Returns:
            the logits [B, outputs] of the selected outputs, for callbacks; None for a batch without images.
        """
        return self._evaluate(batch, "val")

    def test_step(self, batch: tuple[Tensor, Tensor], batch_idx: int) -> Tensor | None:
        """As `validation_step`, for ``test/…``."""
        return self._evaluate(batch, "test")

    def predict_step(self, batch: tuple[Tensor, Tensor], batch_idx: int) -> Tensor:
        """The logits [B, outputs] of the selected outputs; images that could not be read are left out."""
        images, labels = batch
        logits = self(images) if len(labels) else images.new_empty(0, self.num_outputs)
        return logits if self.outputs is None else logits[:, self.outputs]

    def _evaluate(self, batch: tuple[Tensor, Tensor], split: str) -> Tensor | None:
        images, labels = batch
        logits = self(images) if len(labels) else None  # all of its images may have been damaged
        if logits is not None:
            logits = logits if self.outputs is None else logits[:, self.outputs]
            self.val_metrics.count(logits, labels)
        self.log_dict({f"{split}/{name}": metric for name, metric in self.val_metrics.items()}, on_epoch=True)
        return logits

    def on_validation_batch_end(self, outputs: Tensor | None, batch: Any, batch_idx: int) -> None:
        if batch_idx + 1 == self.trainer.num_val_batches[0]:
            self._refuse_without_images("validation")

    def on_test_batch_end(self, outputs: Tensor | None, batch: Any, batch_idx: int) -> None:
        if batch_idx + 1 == self.trainer.num_test_batches[0]:
            self._refuse_without_images("test")

    def _refuse_without_images(self, split: str) -> None:
        """Refuse an evaluation without images, whose accuracy would be 0 %."""
        if not self.trainer.strategy.reduce(self.val_metrics.images, reduce_op="sum"):
            latest = self.trainer.datamodule.faults.latest()
            raise RunError(f"none of the {split} images could be read; the last: {latest}")

    def setup(self, stage: str) -> None:
        if stage == "fit" and self.classes and (classes := getattr(self.trainer.datamodule, "classes", None)):
            check_same(classes, self.classes)
            self.select(None)

    def on_validation_start(self) -> None:
        """Select the outputs of the data's classes by name, which only commands have done already."""
        classes = getattr(self.trainer.datamodule, "classes", None)
        if self.trainer.state.fn != TrainerFn.FITTING and classes and self.classes:
            known = self.classes, self.hparams.num_classes, self.num_outputs
            if self.select(select_outputs(classes, *known, "the module")):
                log.warning("evaluated on %d of %d outputs, matched by class name", len(classes), self.num_outputs)

    on_test_start = on_validation_start

    def configure_model(self) -> None:
        if self.device_mesh is not None:  # FSDP
            shard(self.model, self.device_mesh["data_parallel"], self.trainer.precision)

    def configure_optimizers(self) -> OptimizerLRScheduler:
        """timm's optimizer and schedule, stepped every update.

        Raises:
            ValueError: the run has no length, or the schedule does not fit into it.
        """
        optimizer = self.build_optimizer()
        self.trainer.fit_loop.setup_data()  # counts the batches, also where the length is given in steps
        updates = self.trainer.estimated_stepping_batches
        if updates == float("inf"):
            raise ValueError("the schedule needs the length of the run; set trainer.max_epochs or trainer.max_steps")
        per_epoch = -(-self.trainer.num_training_batches // self.trainer.accumulate_grad_batches)
        scheduler = self.build_scheduler(optimizer, updates, per_epoch)
        return {"optimizer": optimizer, "lr_scheduler": {"scheduler": scheduler, "interval": "step"}}

    def build_optimizer(self) -> Optimizer:
        with self.frozen.requiring_gradients():
            return build_optimizer(self.model, self.hparams.optimizer)

    def build_scheduler(self, optimizer: Optimizer, updates: int, per_epoch: int) -> Scheduler:
        # A fast_dev_run is too short for a warmup.
        options = {"sched": "constant"} if self.trainer.fast_dev_run else self.hparams.scheduler
        return build_scheduler(optimizer, options, updates, per_epoch)

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
        checkpoint["format"] = FORMAT
        checkpoint["classes"] = getattr(self.trainer.datamodule, "classes", self.classes)
        parameters = checkpoint[self.CHECKPOINT_HYPER_PARAMS_KEY]
        model = parameters["model"] | {"pretrained": False, "init_from": None, "freeze": None}
        checkpoint[self.CHECKPOINT_HYPER_PARAMS_KEY] = {**parameters, "model": model}

    def on_load_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        """Take over what a checkpoint describes, and resample its weights if its images had another size."""
        self._adopt(checkpoint)
        resize_checkpoint(checkpoint, self)

    def _adopt(self, checkpoint: dict[str, Any]) -> None:
        migrate_checkpoint(checkpoint)  # before callbacks look for their states
        if checkpoint.get("format", 1) < FORMAT:
            ignore_rope(self.model)
        if "state_dict" in checkpoint:  # a sharded one is read in place
            checkpoint["state_dict"] = unwrapped(checkpoint["state_dict"])
        self.classes = self.classes or checkpoint.get("classes")
        self.earlier_metrics = checkpoint.get("metrics", {})
