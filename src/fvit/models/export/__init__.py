"""Exported models: each file is read back, and its logits are compared with the checkpoint's."""

from fvit.models.export.card import CardContent, card
from fvit.models.export.formats import FORMATS, needs_fvit
from fvit.models.export.hub import check_name, push
from fvit.models.export.model import ExportModel

__all__ = ["FORMATS", "CardContent", "ExportModel", "card", "check_name", "needs_fvit", "push"]
