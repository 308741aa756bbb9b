"""The LightningModule, its losses, and its checkpoints."""

from fvit.training.classifier import Classifier
from fvit.training.losses import build_loss

__all__ = ["Classifier", "build_loss"]
