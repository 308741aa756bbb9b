"""The LightningModule of a student that also learns from a teacher."""

import logging
from collections.abc import Mapping, Sequence
from contextlib import ExitStack
from functools import partial
from typing import Any

import torch
from timm.models.deit import VisionTransformerDistilled
from torch import Tensor, nn
from torch.optim import Optimizer

from fvit.training.classes import counterparts, match
from fvit.training.classifier import Classifier
from fvit.training.distillation import LossWeight, TokenMatch
from fvit.training.losses import hard_loss, soft_loss
from fvit.training.metrics import accuracy
from fvit.training.teacher import load_teacher

log = logging.getLogger(__name__)


class Distiller(Classifier):
    """A Classifier with additional losses against a frozen teacher.

    The teacher is not a submodule: checkpoints do not contain it, and `Classifier.load_from_checkpoint` opens them
    without it. The projectors of `TokenMatch` have their own entry in checkpoints, for resuming.

    A student with DeiT's distillation token (``deit_*_distilled_*``) learns labels with its class token and the
    teacher's logits with the distillation token. Other students learn both with their only head.

    Args:
        model, img_size, num_classes, optimizer, scheduler, loss, classes: as in `Classifier`.
        distillation: ``teacher``, with `name` and `path` of `load_teacher`, and the losses ``task`` (of the labels),
            ``soft``, ``hard``, ``attention`` and ``features``, each with the arguments of `LossWeight` and of its
            function or `TokenMatch`. A weight of 0 disables a loss.
        mean, std: per channel, of the normalised images.

    Raises:
        ValueError: the teacher cannot be loaded or does not fit the student.
    """

    def __init__(
        self,
        model: Mapping[str, Any],
        img_size: int | Sequence[int],
        num_classes: int,
        optimizer: Mapping[str, Any],
        scheduler: Mapping[str, Any],
        loss: Mapping[str, Any],
        distillation: Mapping[str, Any],
        mean: Sequence[float],
        std: Sequence[float],
        classes: Sequence[str] | None = None,
    ) -> None:
        super().__init__(model, img_size, num_classes, optimizer, scheduler, loss, classes)
        losses = {name: dict(part) for name, part in distillation.items() if name not in ("teacher", "stages")}
        weights = {name: LossWeight.pop_from(options) for name, options in losses.items()}
        self.weights = {name: weight for name, weight in weights.items() if weight.weight or name == "task"}
        self.teacher = load_teacher(
            **distillation["teacher"], num_classes=self.num_outputs, img_size=img_size, normalisation=(mean, std)
        )
        self.logit_losses = {
            name: partial(function, **losses[name])
            for name, function in (("soft", soft_loss), ("hard", hard_loss))
            if name in self.weights
        }
        self.matches = nn.ModuleDict(
            {
                name: TokenMatch(self.model, self.teacher.model, **place, **losses[name])
                for name, place in (("attention", {"place": "attention"}), ("features", {}))
                if name in self.weights
            }
        )
        self.teacher_acc1 = accuracy(self.teacher.num_outputs) if self._match_classes() else None
        if self.logit_losses and isinstance(self.model, VisionTransformerDistilled):
            self.model.set_distilled_training()

    def _match_classes(self) -> bool:
        """Let the teacher give the logits of the student's classes; returns whether it knows all of them.

        Raises:
            ValueError: it does not, and a loss compares logits.
        """
        remedy = "Use a teacher that was trained on these classes, or match tokens: distillation=attention or features"
        if self.classes is None or self.teacher.classes is None:
            same = self.teacher.num_outputs == self.num_outputs
            if self.logit_losses and not same:
                raise ValueError(
                    f"the teacher has {self.teacher.num_outputs} outputs and the student {self.num_outputs}: "
                    f"distillation.{next(iter(self.logit_losses))} needs the same classes. {remedy}"
                )
            if self.logit_losses and self.classes is not None:
                log.warning("the teacher records no names of classes: its outputs are taken in the dataset's order")
            return same
        if None in counterparts(self.classes, self.teacher.classes) and not self.logit_losses:
            return False
        try:
            self.teacher.select(match(self.classes, self.teacher.classes, f"the teacher {self.teacher.name}"))
        except ValueError as error:
            raise ValueError(f"{error}. {remedy}") from error
        return True

    def facts(self) -> list[tuple[str, str]]:
        losses = ", ".join(f"{name} {weight}" for name, weight in self.weights.items())
        return [*super().facts(), ("teacher", self.teacher.name), ("losses", losses)]

    def on_fit_start(self) -> None:
        self.teacher.to(self.device, self.dtype)

    def objective(self, images: Tensor, targets: Tensor) -> tuple[Tensor, Tensor]:
        """The weighted sum of all losses and the logits [B, outputs]; logs each loss as ``distill/<name>``.

        The teacher runs only while one of its losses has a weight.
        """
        weights = self.loss_weights()
        # Matches of attention given the teacher's inputs do not go through the student.
        passes = any(w for name, w in weights.items() if not self.matches_given_inputs(name))
        with ExitStack() as stack:
            for match in self.matches.values():
                stack.enter_context(match)
            with torch.set_grad_enabled(passes):
                outputs = self(images)
            # Of the class and distillation tokens, or twice of the only head.
            label_logits, teacher_logits = outputs if isinstance(outputs, tuple) else (outputs, outputs)
            losses = {"task": self.loss(label_logits, targets)}
            if any(weight for name, weight in weights.items() if name != "task"):
                losses |= self._teacher_losses(teacher_logits, images, targets)
        if self.step_is_logged:
            self.step_means.add({f"distill/{name}": loss for name, loss in losses.items()})
        # DDP expects gradients of all parameters, also of projectors whose loss has no weight any more.
        unused = sum(parameter.sum() for parameter in (self.matches if passes else self).parameters())
        total = sum(weights[name] * loss for name, loss in losses.items()) + 0 * unused
        return total, (label_logits + teacher_logits) / 2

    def loss_weights(self) -> dict[str, float]:
        """The weights of the losses in the current step."""
        progress = self.global_step / self.trainer.estimated_stepping_batches
        return {name: weight(progress) for name, weight in self.weights.items()}

    def matches_given_inputs(self, name: str) -> bool:
        """Whether this loss compares attentions that are given the same inputs."""
        return name in self.matches and self.matches[name].inputs == "teacher"

    def _teacher_losses(self, logits: Tensor, images: Tensor, targets: Tensor) -> dict[str, Tensor]:
        """The losses against the teacher; logs ``teacher/acc1``, its accuracy on the epoch's training images."""
        expected = self.teacher(images)
        if self.teacher_acc1 is not None:
            self.teacher_acc1(expected, targets.argmax(dim=1) if targets.ndim == 2 else targets)
            self.log("teacher/acc1", self.teacher_acc1, on_step=False, on_epoch=True)
        # Outputs beyond the classes of the dataset have no counterpart.
        logits = logits[:, : expected.shape[1]]
        losses = {name: function(logits, expected) for name, function in self.logit_losses.items()}
        return losses | {name: match() for name, match in self.matches.items()}

    def build_optimizer(self) -> Optimizer:
        optimizer = super().build_optimizer()
        if projectors := list(self.matches.parameters()):
            optimizer.add_param_group({"params": projectors, "weight_decay": 0.0})
        return optimizer

    def on_save_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        super().on_save_checkpoint(checkpoint)
        # Apart from the weights, which then are the student's alone.
        weights = checkpoint["state_dict"]
        checkpoint["matches"] = {name: weight for name, weight in weights.items() if name.startswith("matches.")}
        checkpoint["state_dict"] = {
            name: weight for name, weight in weights.items() if name not in checkpoint["matches"]
        }

    def on_load_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        super().on_load_checkpoint(checkpoint)
        checkpoint["state_dict"] = {**checkpoint["state_dict"], **checkpoint["matches"]}
