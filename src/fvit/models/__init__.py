"""timm models with exchanged attention, backbones that timm lacks, and their names in timm's registry."""

from fvit.models.backbones.casvit import CasViT
from fvit.models.backbones.crossformerpp import CrossFormer
from fvit.models.backbones.fastervit import FasterViT
from fvit.models.backbones.vip import VisionPermutator
from fvit.models.backbones.vit5 import ViT5
from fvit.models.build import build
from fvit.models.data_config import data_config
from fvit.models.exchange import BlockReport, exchange, exchange_rows
from fvit.models.fvit import FViT, exchanged
from fvit.models.spec import AttentionSpec, BlockSpec, attention_spec, block_indices, expand
from fvit.models.transfer import WeightTransfer, transfer_weights

# Names of version 0.1.
Inheritance, inherit = WeightTransfer, transfer_weights

__all__ = [
    "AttentionSpec",
    "BlockReport",
    "BlockSpec",
    "CasViT",
    "CrossFormer",
    "FViT",
    "FasterViT",
    "ViT5",
    "VisionPermutator",
    "WeightTransfer",
    "attention_spec",
    "block_indices",
    "build",
    "data_config",
    "exchange",
    "exchange_rows",
    "exchanged",
    "expand",
    "transfer_weights",
]
