"""A timm model with its attention exchanged, and the names registered with timm."""

from fvit.models.build import attention_spec, build
from fvit.models.exchange import exchange
from fvit.models.fvit import FViT
from fvit.models.report import BlockReport, exchange_rows
from fvit.models.spec import AttentionSpec, BlockSpec, block_indices, expand

__all__ = [
    "AttentionSpec",
    "BlockReport",
    "BlockSpec",
    "FViT",
    "attention_spec",
    "block_indices",
    "build",
    "exchange",
    "exchange_rows",
    "expand",
]
