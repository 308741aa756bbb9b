"""The LightningModules, their losses and checkpoints, and the predictions of a validation."""

from fvit.training.classifier import Classifier
from fvit.training.distiller import Distiller
from fvit.training.losses import build_loss
from fvit.training.predictions import CollectPredictions, Predictions
from fvit.training.staged import StagedDistiller

# Names of version 0.1.
Answers, CollectAnswers = Predictions, CollectPredictions

__all__ = [
    "Classifier",
    "CollectPredictions",
    "Distiller",
    "Predictions",
    "StagedDistiller",
    "build_loss",
]
