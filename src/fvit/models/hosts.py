"""Hosts: the timm models whose attention can be exchanged, where their attentions are, and what they require."""

import functools
import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import torch
from timm.layers import Attention, AttentionRope, RelPosBias, RelPosMlp
from timm.models import named_apply
from timm.models.beit import Attention as BeitAttention
from timm.models.beit import Beit
from timm.models.cait import Cait, TalkingHeadAttn
from timm.models.eva import Eva, EvaAttention
from timm.models.naflexvit import NaFlexVit
from timm.models.swin_transformer import SwinTransformer, WindowAttention
from timm.models.vision_transformer import VisionTransformer, get_init_weights_vit
from timm.models.vision_transformer_relpos import RelPosAttention, VisionTransformerRelPos
from torch import Tensor, nn

from fvit.attention import Mechanism, get, names
from fvit.attention.base import Size
from fvit.attention.value_residual import FirstValues
from fvit.models.adapters import Adapter, BiasAdapter, RotaryAdapter, WindowAdapter

ATTENTIONS: dict[type[nn.Module], tuple[type[nn.Module], ...]] = {
    VisionTransformer: (Attention,),
    Beit: (BeitAttention,),
    Eva: (EvaAttention, AttentionRope),
    VisionTransformerRelPos: (RelPosAttention,),
    Cait: (TalkingHeadAttn,),
    SwinTransformer: (WindowAttention,),
    NaFlexVit: (Attention, EvaAttention, AttentionRope),
}
"""The classes of attention that can be replaced, for each host."""

_ADAPTERS: dict[type[nn.Module], type[Adapter]] = {
    BeitAttention: BiasAdapter,
    EvaAttention: RotaryAdapter,
    AttentionRope: RotaryAdapter,
    RelPosAttention: BiasAdapter,
    WindowAttention: WindowAdapter,
}

SUPPORTED = (
    "supported hosts are timm's VisionTransformers with plain attention (vit_small_patch16_224, deit_*, deit3_*, "
    "vit_*_clip_*, vit_*_dinov2, …), BEiT, EVA and DINOv3, Swin (not V2), CaiT, relative-position and NaFlex ViTs; "
    "not those with differential attention or parallel blocks"
)


@dataclass(frozen=True)
class Site:
    """One attention of a host, and the layout of its tokens.

    Attributes:
        index: of the block, counted through all stages.
        block: the module that calls `block.attn`.
        grid: rows and columns of the patches among which it attends; in Swin, those of a window.
        prefix: number of class and register tokens in front of the patches.
    """

    index: int
    block: nn.Module
    grid: Size
    prefix: int

    @property
    def mechanism(self) -> Mechanism | None:
        """The mechanism at this site; None for timm's own attention."""
        attn = getattr(self.block, "attn", None)
        attn = attn.mechanism if isinstance(attn, Adapter) else attn
        return attn if isinstance(attn, Mechanism) else None


def sites(model: nn.Module) -> list[Site]:
    """All sites of a host, in the order of the forward pass.

    Raises:
        ValueError: `model` is not a supported host.
    """
    if isinstance(model, SwinTransformer):
        blocks = [block for stage in model.layers for block in stage.blocks]
        return [Site(index, block, tuple(block.window_size), 0) for index, block in enumerate(blocks)]
    if not isinstance(model, tuple(ATTENTIONS)):
        raise ValueError(f"{type(model).__name__} has no exchangeable attention; {SUPPORTED}")
    # CaiT adds its class token after these blocks. NaFlexVit takes any grid; this is that of its position embedding.
    prefix = 0 if isinstance(model, Cait) else model.num_prefix_tokens
    grid = model.embeds.pos_embed_grid_size if isinstance(model, NaFlexVit) else model.patch_embed.grid_size
    return [Site(index, block, tuple(grid), prefix) for index, block in enumerate(model.blocks)]


def check_exchangeable(model: nn.Module, site: Site) -> None:
    """Raise ValueError unless the attention at `site` can be replaced."""
    attn = getattr(site.block, "attn", None)
    known = next(kinds for host, kinds in ATTENTIONS.items() if isinstance(model, host))
    if site.mechanism is None and type(attn) not in known:
        raise ValueError(
            f"block {site.index} of {type(model).__name__} is a {type(site.block).__name__} with "
            f"{type(attn).__name__} as its attention, which is not exchangeable; {SUPPORTED}"
        )


def check_fit(model: nn.Module, all_sites: list[Site], site: Site, mechanism: Mechanism) -> None:
    """Raise ValueError if the host lacks what `mechanism` needs, or passes a mask that it cannot honour."""
    name = type(mechanism).__name__
    if mechanism.needs_grid or mechanism.fixed_length:
        if isinstance(model, NaFlexVit):
            raise ValueError(f"{name} needs one fixed grid, which NaFlexVit does not have; use another kind of host")
        if getattr(model, "dynamic_img_size", False) and not isinstance(model, SwinTransformer):
            raise ValueError(
                f"{name} needs one fixed grid; build the host with dynamic_img_size=False "
                "(++model.dynamic_img_size=false)"
            )
        if not isinstance(getattr(model, "patch_drop", None), nn.Identity | None):
            raise ValueError(
                f"{name} needs all patches; build the host with patch_drop_rate=0 (++model.patch_drop_rate=0)"
            )
    if getattr(model, "fix_init", False) and not isinstance(getattr(mechanism, "proj", None), nn.Linear):
        raise ValueError(f"the host rescales attn.proj by depth, which {name} lacks; build it with fix_init=False")
    if site.prefix and not mechanism.takes_prefix:
        raise ValueError(
            f"{name} cannot take class or register tokens; "
            "build the host with class_token=False, reg_tokens=0 and global_pool=avg (++model.class_token=false "
            "++model.reg_tokens=0 ++model.global_pool=avg)"
        )
    if mechanism.takes_pair_mask:
        return
    able = ", ".join(other for other in names() if get(other).takes_pair_mask)
    if _shifts(site):
        free = [other.index for other in all_sites if not _shifts(other)]
        raise ValueError(
            f"block {site.index} of {type(model).__name__} shifts its windows and masks pairs of tokens from different "
            f"windows, which {name} cannot honour; use one of {able}, or the blocks that do not shift: blocks={free}"
        )
    if isinstance(model, NaFlexVit) and not model.use_key_only_attn_mask:
        raise ValueError(
            f"NaFlexVit masks pairs of tokens, which {name} cannot honour; use one of {able}, "
            "or build the host with use_key_only_attn_mask=True (++model.use_key_only_attn_mask=true)"
        )


def _shifts(site: Site) -> bool:
    return any(getattr(site.block, "shift_size", ()))


def check_first_block(model: nn.Module, all_sites: list[Site], new: dict[int, Mechanism]) -> None:
    """Raise ValueError if a block reads values of the first block that it does not have."""
    mechanisms = {site.index: new.get(site.index, site.mechanism) for site in all_sites}
    first = mechanisms[0]
    for index, mechanism in mechanisms.items():
        if getattr(mechanism, "value_residual", None) is None:
            continue
        if isinstance(model, SwinTransformer):
            raise ValueError("Swin's stages and windows have different tokens, so no block can use the first's values")
        if getattr(first, "value_residual", None) is None or first.num_heads != mechanism.num_heads:
            raise ValueError(
                f"block {index} mixes the first block's values into its own, so block 0 must also be softmax with "
                f"value_residual and {mechanism.num_heads} heads; include it in blocks, or set value_residual=null"
            )


def share_first_values(all_sites: list[Site]) -> FirstValues | None:
    """Connect the mechanisms that use the first block's values; None if there are none."""
    residuals = [getattr(site.mechanism, "value_residual", None) for site in all_sites]
    first = FirstValues() if any(residual is not None for residual in residuals) else None
    for residual in residuals:
        if residual is not None:
            residual.first = first
    return first


def check_class_token(model: nn.Module, all_sites: list[Site], new: dict[int, Mechanism]) -> None:
    """Raise ValueError if the head reads a class token that no block lets see the patches."""
    mechanisms = [new.get(site.index, site.mechanism) for site in all_sites]
    unseen = all(mechanism is not None and not mechanism.reaches_prefix for mechanism in mechanisms)
    if getattr(model, "global_pool", None) == "token" and all_sites[0].prefix and unseen:
        what = " and ".join(sorted({type(mechanism).__name__ for mechanism in mechanisms}))
        raise ValueError(
            f"the head reads the class token, which {what} does not let see the patches; "
            "build the host with class_token=False and global_pool=avg (++model.class_token=false "
            "++model.global_pool=avg)"
        )


def read_arguments(site: Site, parameters: Mapping[str, Tensor]) -> tuple[int, dict[str, Any]]:
    """Width and constructor arguments of timm's attention at `site`; `parameters` from `transfer.parameters`.

    Raises:
        ValueError: it computes something that mechanisms do not.
    """
    attn = site.block.attn
    dim = attn.proj.out_features
    for part in ("q", "k", "v", "proj"):
        weight = parameters.get(f"{part}.weight")
        if weight is None or tuple(weight.shape) != (dim, dim):
            raise ValueError(
                f"the attention of block {site.index} cannot be exchanged: its {part} projection changes the width "
                f"of {dim}, because heads have another width or keys have fewer heads than queries"
            )
    if getattr(attn, "gate", None) is not None:
        raise ValueError(f"the attention of block {site.index} cannot be exchanged: it is gated")
    q_norm = getattr(attn, "q_norm", nn.Identity())
    normed = not isinstance(q_norm, nn.Identity)
    return dim, dict(
        num_heads=attn.num_heads,
        qkv_bias="q.bias" in parameters,
        qk_norm=normed,
        scale_norm=not isinstance(getattr(attn, "norm", nn.Identity()), nn.Identity),
        proj_bias="proj.bias" in parameters,
        norm_layer=functools.partial(type(q_norm), eps=q_norm.eps) if normed else None,
        attn_drop=attn.attn_drop.p,
        proj_drop=attn.proj_drop.p,
    )


def wrap(attn: nn.Module, mechanism: Mechanism) -> nn.Module:
    """The replacement of `attn`: `mechanism`, inside an adapter if the host's blocks pass other arguments."""
    kind = type(attn) if isinstance(attn, Adapter) else _ADAPTERS.get(type(attn))
    if kind is None:
        return mechanism
    adapter = kind(mechanism, attn.rel_pos if isinstance(attn, Adapter) else _position_bias(attn))
    if isinstance(adapter, RotaryAdapter):
        adapter.rotate_half = getattr(attn, "rotate_half", False)
    return adapter


def _position_bias(attn: nn.Module) -> RelPosBias | RelPosMlp | None:
    """The relative position bias of one of timm's attentions, as a module."""
    table = getattr(attn, "relative_position_bias_table", None)
    if table is None:
        return getattr(attn, "rel_pos", None)
    rows, columns = attn.window_size
    # BEiT has three more entries, for the class token.
    prefix = int(len(table) > (2 * rows - 1) * (2 * columns - 1))
    bias = RelPosBias((rows, columns), attn.num_heads, prefix, device=table.device, dtype=table.dtype)
    bias.load_state_dict({"relative_position_bias_table": table})
    return bias


def shared_positions(model: nn.Module) -> list[str]:
    """Names of the host's position modules that the attentions of all blocks share."""
    return [name for name in ("rope", "rel_pos_bias", "shared_rel_pos") if getattr(model, name, None) is not None]


def uses_shared_positions(attn: nn.Module) -> bool:
    """Whether a block's attention uses them; timm's own does."""
    return attn.takes_shared if isinstance(attn, Adapter) else not isinstance(attn, Mechanism)


def ignore_rope(model: nn.Module) -> None:
    """Let exchanged attention compute without the host's rotary positions, as it did before 0.2."""
    adapters = [module for module in model.modules() if isinstance(module, RotaryAdapter)]
    for adapter in adapters:
        adapter.ignores_rope = True
    if adapters and not any(uses_shared_positions(site.block.attn) for site in sites(model)):
        model.rope = None


def initialise(model: nn.Module, index: int, mechanism: Mechanism) -> None:
    """Initialise a mechanism as the host initialises its own attention in block `index`."""
    named_apply(get_init_weights_vit(getattr(model, "weight_init_mode", "")), mechanism, name="attn", include_root=True)
    proj = getattr(mechanism, "proj", None)
    if getattr(model, "fix_init", isinstance(model, Beit | Eva)) and isinstance(proj, nn.Linear):
        with torch.no_grad():
            proj.weight.div_(math.sqrt(2 * (index + 1)))
