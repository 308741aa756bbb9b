"""A timm model with its attention exchanged, backbones that timm lacks, and the names registered with timm."""

from fvit.models.backbones.casvit import CasViT
from fvit.models.backbones.crossformerpp import CrossFormer
from fvit.models.backbones.fastervit import FasterViT
from fvit.models.backbones.vip import VisionPermutator
from fvit.models.build import attention_spec, build
from fvit.models.exchange import exchange
from fvit.models.exchanged import exchanged
from fvit.models.fvit import FViT
from fvit.models.inherit import Inheritance, inherit
from fvit.models.report import BlockReport, exchange_rows
from fvit.models.spec import AttentionSpec, BlockSpec, block_indices, expand

__all__ = [
    "AttentionSpec",
    "BlockReport",
    "BlockSpec",
    "CasViT",
    "CrossFormer",
    "FViT",
    "FasterViT",
    "Inheritance",
    "VisionPermutator",
    "attention_spec",
    "block_indices",
    "build",
    "exchange",
    "exchange_rows",
    "exchanged",
    "expand",
    "inherit",
]
