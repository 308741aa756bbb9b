"""Weight transfer: from another model by name and shape, and from one attention to another by projection."""

import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from fvit.models.adapters import Adapter

KEEP = {"qkv": ("q", "k", "v"), "q": ("q",), "k": ("k",), "v": ("v",), "proj": ("proj",)}
"""The names that `keep` accepts, and the projections that each stands for."""

_PROJECTIONS = ("q", "k", "v", "proj")
_JOINT = {"qkv": ("q", "k", "v"), "kv": ("k", "v")}
_ALIASES = {
    # EVA's separate projections; the biases of BEiT and EVA, which have none for k; the table of BEiT and Swin.
    **{f"{part}_proj.{kind}": f"{part}.{kind}" for part in "qkv" for kind in ("weight", "bias")},
    "q_bias": "q.bias",
    "v_bias": "v.bias",
    "relative_position_bias_table": "rel_pos.relative_position_bias_table",
}


@dataclass(frozen=True)
class WeightTransfer:
    """The outcome of `transfer_weights`, as names of weights.

    Attributes:
        loaded: weights of the model that were replaced.
        initialised: weights of the model that keep their initialisation.
        unused: given weights that do not fit the model.
    """

    loaded: list[str]
    initialised: list[str]
    unused: list[str]

    def __str__(self) -> str:
        text = f"{len(self.loaded)} of {len(self.loaded) + len(self.initialised)} weights loaded"
        if self.initialised:
            text += f"; initialised: {_abbreviate(self.initialised)}"
        return text + (f"; unused: {_abbreviate(self.unused)}" if self.unused else "")


def transfer_weights(model: nn.Module, weights: Mapping[str, Tensor]) -> WeightTransfer:
    """Copy into `model`, in place, every weight whose name and shape match.

    Raises:
        ValueError: no weight matches.
    """
    own = model.state_dict()
    matching = {name: weight for name, weight in weights.items() if name in own and own[name].shape == weight.shape}
    if not matching:
        raise ValueError(
            f"none of the {len(weights)} weights matches the model by name and shape; "
            f"given: {_abbreviate(weights)}; the model's: {_abbreviate(own)}"
        )
    model.load_state_dict(matching, strict=False)
    return WeightTransfer(
        loaded=[name for name in own if name in matching],
        initialised=[name for name in own if name not in matching],
        unused=[name for name in weights if name not in matching],
    )


def _abbreviate(names: Iterable[str]) -> str:
    """Names with their numbers replaced, each once: blocks.*.attn.q.weight."""
    return ", ".join(dict.fromkeys(re.sub(r"\.\d+(?=\.)", ".*", name) for name in names))


def requested_projections(keep: Sequence[str]) -> list[str]:
    """The projections that `keep` names, each once.

    Raises:
        ValueError: unknown name.
    """
    keep = [keep] if isinstance(keep, str) else keep
    for name in keep:
        if name not in KEEP:
            raise ValueError(f"keep has no {name!r}; it takes: {', '.join(KEEP)}")
    return list(dict.fromkeys(part for name in keep for part in KEEP[name]))


def parameters(attn: nn.Module) -> dict[str, Tensor]:
    """The parameters of one of timm's attentions or of a mechanism, under names that do not depend on joint layers.

    The parts of joint projections appear as `q`, `k` and `v`, as views of the module's parameters. Projections first.
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
    first = [f"{part}.{kind}" for part in _PROJECTIONS for kind in ("weight", "bias")]
    return {name: found[name] for name in dict.fromkeys([*first, *found]) if name in found}


def _is_joint(module: nn.Module, parts: int) -> bool:
    return isinstance(module, nn.Linear) and module.out_features == parts * module.in_features


def available_projections(found: Mapping[str, Tensor]) -> list[str]:
    """The projections among the result of `parameters`."""
    return [part for part in _PROJECTIONS if f"{part}.weight" in found]


@torch.no_grad()
def transfer_projections(old: Mapping[str, Tensor], new: Mapping[str, Tensor], wanted: Sequence[str]) -> list[str]:
    """Copy the `wanted` projections from `old` to `new`, with bias and norm, and return the names that were set.

    A projection that one of them lacks, or has in another shape, is skipped. A bias that the old one lacks becomes 0,
    which computes the same.
    """
    copied: list[str] = []
    for part in wanted:
        if not _fits(old, new, f"{part}.weight"):
            continue
        for name in new:
            owner = name.rpartition(".")[0]
            if owner in (part, f"{part}_norm") and _fits(old, new, name):
                new[name].copy_(old[name])
                copied.append(name)
        bias = f"{part}.bias"
        if bias in new and bias not in old:
            new[bias].zero_()
            copied.append(bias)
    return copied


def _fits(old: Mapping[str, Tensor], new: Mapping[str, Tensor], name: str) -> bool:
    return name in old and name in new and old[name].shape == new[name].shape
