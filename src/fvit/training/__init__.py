"""The LightningModule, its losses, its checkpoints, and its answers to single images."""

from fvit.training.answers import Answers, CollectAnswers
from fvit.training.classifier import Classifier
from fvit.training.losses import build_loss

__all__ = ["Answers", "Classifier", "CollectAnswers", "build_loss"]
