"""Carrying weights from one attention to another, between joint and separate projections."""

from collections.abc import Mapping, Sequence

import torch
from torch import Tensor, nn

from fvit.models.adapters import Adapter

NAMES = {"qkv": ("q", "k", "v"), "q": ("q",), "k": ("k",), "v": ("v",), "proj": ("proj",)}
"""What may be kept, and the projections that it stands for. A projection goes with its bias, and with its norm."""

_PARTS = ("q", "k", "v", "proj")
_JOINT = {"qkv": ("q", "k", "v"), "kv": ("k", "v")}
_ALIASES = {
    # EVA's separate projections; the biases of BEiT and EVA, which have none for k; the table of BEiT and Swin.
    **{f"{part}_proj.{kind}": f"{part}.{kind}" for part in "qkv" for kind in ("weight", "bias")},
    "q_bias": "q.bias",
    "v_bias": "v.bias",
    "relative_position_bias_table": "rel_pos.relative_position_bias_table",
}


def projections(keep: Sequence[str]) -> list[str]:
    """The projections that `keep` names, each once.

    Raises:
        ValueError: a name is unknown; the text gives the nearest.
    """
    keep = [keep] if isinstance(keep, str) else keep
    for name in keep:
        if name not in NAMES:
            raise ValueError(f"keep has no '{name}'; it takes: {', '.join(NAMES)}")
    return list(dict.fromkeys(part for name in keep for part in NAMES[name]))


def parameters(attn: nn.Module) -> dict[str, Tensor]:
    """The parameters of an attention of timm's or ours, by names that do not depend on how they are joined.

    Joint projections appear as `q`, `k` and `v`, as views: to write into these is to write into the module. The
    projections come first.
    """
    inner = attn.mechanism if isinstance(attn, Adapter) else attn
    found: dict[str, Tensor] = {}
    for name, parameter in inner.named_parameters():
        owner, _, kind = name.rpartition(".")
        parts = _JOINT.get(owner, ())
        if parts and _is_joint(inner.get_submodule(owner), len(parts)):
            chunks = parameter.detach().chunk(len(parts))
            found |= {f"{part}.{kind}": chunk for part, chunk in zip(parts, chunks, strict=True)}
        else:
            found[_ALIASES.get(name, name)] = parameter.detach()
    if inner is not attn:
        found |= {name: p.detach() for name, p in attn.named_parameters() if name.startswith("rel_pos.")}
    first = [f"{part}.{kind}" for part in _PARTS for kind in ("weight", "bias")]
    return {name: found[name] for name in dict.fromkeys([*first, *found]) if name in found}


def _is_joint(module: nn.Module, parts: int) -> bool:
    return isinstance(module, nn.Linear) and module.out_features == parts * module.in_features


def available(found: Mapping[str, Tensor]) -> list[str]:
    """The projections among parameters as `parameters` names them."""
    return [part for part in _PARTS if f"{part}.weight" in found]


@torch.no_grad()
def carry(old: Mapping[str, Tensor], new: Mapping[str, Tensor], wanted: Sequence[str]) -> list[str]:
    """Copy projections `wanted` from `old` to `new`, with their biases and norms, and return the names that were.

    A projection that one of them lacks, or has in another shape, is left out. Where the old one has no bias, that of
    the new one becomes 0, which is the same.
    """
    kept: list[str] = []
    for part in wanted:
        if not _fits(old, new, f"{part}.weight"):
            continue
        for name in new:
            owner = name.rpartition(".")[0]
            if owner in (part, f"{part}_norm") and _fits(old, new, name):
                new[name].copy_(old[name])
                kept.append(name)
        bias = f"{part}.bias"
        if bias in new and bias not in old:
            new[bias].zero_()
            kept.append(bias)
    return kept


def _fits(old: Mapping[str, Tensor], new: Mapping[str, Tensor], name: str) -> bool:
    return name in old and name in new and old[name].shape == new[name].shape
