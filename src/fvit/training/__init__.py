"""The LightningModules, their losses, their checkpoints, and their answers to single images."""

from fvit.training.answers import Answers, CollectAnswers
from fvit.training.classifier import Classifier
from fvit.training.distiller import Distiller
from fvit.training.losses import build_loss

__all__ = ["Answers", "Classifier", "CollectAnswers", "Distiller", "build_loss"]
