"""A timm ViT with its attention exchanged, backbones that timm lacks, and the names registered with timm."""

from fvit.models.build import attention_spec, build
from fvit.models.crossformerpp import CrossFormer
from fvit.models.exchange import AttentionSpec, exchange, expand
from fvit.models.fastervit import FasterViT
from fvit.models.fvit import FViT

__all__ = ["AttentionSpec", "CrossFormer", "FViT", "FasterViT", "attention_spec", "build", "exchange", "expand"]
