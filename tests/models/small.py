"""Small hosts, and mechanisms with requirements, for the tests of this folder."""

import pytest
import timm
import torch
from timm.models.vision_transformer import ResPostBlock
from torch import nn

from fvit.attention import IdentityMixer, get, names
from fvit.models import exchange
from fvit.models.hosts import sites

SMALL = dict(img_size=32, patch_size=8, embed_dim=24, depth=3, num_heads=3, num_classes=5)


def small_host(name="vit_tiny_patch16_224", **options):
    return seeded(name, **{**SMALL, **options})


def seeded(name, **options):
    torch.manual_seed(0)
    return timm.create_model(name, **options).eval()


def being_built(attention, **options):
    """An exchange during construction, by FViT."""
    return timm.create_model("fvit_tiny_patch16_224", **{**SMALL, **options}, attention=attention)


def finished(attention, **options):
    """An exchange in a finished model."""
    return exchange(small_host(**options), attention)


def meta_host(name, **options):
    with torch.device("meta"):
        return timm.create_model(name, **options)


both_ways = pytest.mark.parametrize("make", [being_built, finished])


def kinds(model):
    """The attention of each block: the registered name of a mechanism, the class name of timm's own."""
    registered = {get(name): name for name in names()}
    classes = [type(site.mechanism or site.block.attn) for site in sites(model)]
    return [next((registered[base] for base in cls.__mro__ if base in registered), cls.__name__) for cls in classes]


def class_name(attention):
    return get(attention).__name__


# A small host of each kind: timm's name and options.
WINDOWED = dict(img_size=32, patch_size=2, window_size=4, embed_dim=12, depths=(2, 2), num_heads=(2, 4), num_classes=5)
KINDS = {
    "vit": ("vit_tiny_patch16_224", SMALL),
    "distilled": ("deit_tiny_distilled_patch16_224", SMALL),
    "deit3": ("deit3_small_patch16_224", SMALL),
    "clip": ("vit_base_patch32_clip_224", SMALL),
    "dinov2": ("vit_small_patch14_reg4_dinov2", SMALL),
    "post-norm": ("vit_tiny_patch16_224", {**SMALL, "block_fn": ResPostBlock}),
    "beit": ("beit_base_patch16_224", SMALL),
    "beitv2": ("beitv2_base_patch16_224", SMALL),
    "beit, shared bias": ("beit_base_patch16_224", {**SMALL, "use_shared_rel_pos_bias": True}),
    "eva": ("eva_giant_patch14_224", SMALL),
    "eva02": ("eva02_tiny_patch14_224", SMALL),
    "eva02, split": ("eva02_base_patch14_448", SMALL),
    "dinov3": ("vit_small_patch16_dinov3", SMALL),
    "vit5": ("vit5_small_patch16_224", SMALL),
    "vit5, no qk-norm": ("vit5_small_patch16_224", {**SMALL, "qk_norm": False}),
    "eva, mixed rope": ("vit_small_patch16_rope_mixed_224", SMALL),
    "relpos": ("vit_relpos_small_patch16_224", SMALL),
    "relpos, class token": ("vit_relpos_base_patch16_clsgap_224", SMALL),
    "relpos, shared": ("vit_srelpos_small_patch16_224", SMALL),
    "relpos, table": ("vit_relpos_small_patch16_224", {**SMALL, "rel_pos_type": "bias"}),
    "relpos, post-norm": ("vit_relpos_medium_patch16_rpn_224", SMALL),
    "cait": ("cait_xxs24_224", SMALL),
    "swin": ("swin_tiny_patch4_window7_224", WINDOWED),
    "naflex": ("naflexvit_base_patch16_gap", {**SMALL, "fix_init": False, "use_key_only_attn_mask": True}),
    "naflex, rope": ("naflexvit_base_patch16_gap", {**SMALL, "rope_type": "axial"}),
}

# torch warns about how timm resamples its tables of relative positions.
resampling = pytest.mark.filterwarnings("ignore:torch.searchsorted", "ignore:Using a non-tuple sequence")

every_kind = pytest.mark.parametrize("kind", KINDS)
# One kind per way of calling attention: directly, with a bias, with rotary positions, in windows, with masks.
each_way = pytest.mark.parametrize("kind", ["vit", "beit, shared bias", "relpos, shared", "eva02", "swin", "naflex"])


def host_of(kind, std=0.5, **options):
    """A host with weights large enough for every part to matter; with timm's initialisation if `std` is 0."""
    name, own = KINDS[kind]
    model = seeded(name, **{**own, **options})
    if std:
        for parameter in model.parameters():
            nn.init.normal_(parameter, std=std)
    return model


def images(*size, batch=2):
    return torch.randn(batch, 3, *(size or (32, 32)), generator=torch.Generator().manual_seed(0))


def head_for(attention):
    """Options of a host whose head sees the image: average pooling if the class token does not."""
    return {} if get(attention).reaches_prefix else {"global_pool": "avg"}


# One mechanism per way of using the layout: none, a grid, sizes fixed by the number of tokens, the block's index.
REPRESENTATIVES = ["additive", "softmax", "agent", "linformer", "gfnet", "window", "identity"]


class NeedsGrid(IdentityMixer):
    needs_grid = True
    reaches_prefix = True


class FixedLength(IdentityMixer):
    fixed_length = True
    reaches_prefix = True


class NoPrefix(IdentityMixer):
    takes_prefix = False


WIDE = dict(img_size=(16, 40), patch_size=8)  # 2 rows, 5 columns


def bright(row, column, rows=2, columns=5):
    """A black image with one white patch."""
    image = torch.zeros(1, 3, 8 * rows, 8 * columns)
    image[..., 8 * row : 8 * row + 8, 8 * column : 8 * column + 8] = 1
    return image


def attending_to_brightness(attention, **options):
    """A model whose tokens have their patch's brightness in channel 0, and whose attention weighs it."""
    model = small_host(**WIDE, depth=1, **options)
    if attention != "native":
        exchange(model, attention)
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.zero_()
        model.patch_embed.proj.weight[0] = 1 / 192
        attn = model.blocks[0].attn
        if attention == "additive":
            attn.q.weight.copy_(torch.eye(24))
            attn.k.weight.copy_(torch.eye(24))
            attn.query_logit[0, 0] = 20
        else:
            attn.qkv.bias[0] = 20  # all queries are the same
            attn.qkv.weight[24:48] = torch.eye(24)
    model.blocks[0].norm1 = nn.Identity()
    return model
