"""Weight transfer: from another model by name and shape, and from one attention to another by projection."""

import inspect
import re
import sys
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from fvit.attention.fixed_length import FixedLength
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
        classes: how many outputs of the head have weights of their class, if not all that were given; else None.
    """

    loaded: list[str]
    initialised: list[str]
    unused: list[str]
    classes: int | None = None

    def __str__(self) -> str:
        text = f"{len(self.loaded)} of {len(self.loaded) + len(self.initialised)} weights loaded"
        if self.initialised:
            text += f"; initialised: {self._abbreviate(self.initialised)}"
        if self.classes is not None:
            text += f"; the head's by class name, for {self.classes} classes"
        return text + (f"; unused: {self._abbreviate(self.unused)}" if self.unused else "")

    @property
    def depths(self) -> tuple[int, int]:
        """The number of blocks that the given weights have, and that the model has; 0 without a list of blocks."""
        given, own = ({_block(name) for name in self.loaded + other} for other in (self.unused, self.initialised))
        return len(given - {None}), len(own - {None})

    def _abbreviate(self, names: Sequence[str]) -> str:
        """`names`, with one for all weights of blocks of which none is loaded: blocks 6-11."""
        whole = {_block(name) for name in names} - {_block(name) for name in self.loaded} - {None}
        rest = abbreviate_names(name for name in names if _block(name) not in whole)
        listed = f"blocks {min(whole)}-{max(whole)}" if len(whole) > 1 else f"block {min(whole)}" if whole else ""
        return ", ".join(filter(None, [listed, rest]))


def transfer_weights(
    model: nn.Module, weights: Mapping[str, Tensor], outputs: Sequence[int | None] | None = None
) -> WeightTransfer:
    """Copy into `model`, in place, every weight whose name and shape match.

    A prefix that nearly all names have, such as Lightning's ``model.``, is ignored. Weights of other projects that timm
    can convert are converted, and positions of another grid resampled: those of the host by timm, which takes the grid
    for a square unless its description says otherwise, those of mechanisms from the layout that was saved with them.

    Args:
        model: the model.
        weights: a state dict.
        outputs: for each class of the model, the output of the same class in the head of `weights`, or None for a class
            that keeps its initialisation; None to take the head as it is.

    Raises:
        ValueError: no weight matches.
    """
    own = model.state_dict()
    weights = _fitted(model, weights, own)
    if outputs is not None:
        weights = {**weights, **_heads_by_class(model, weights, outputs)}
    matching = {name: weight for name, weight in weights.items() if name in own and own[name].shape == weight.shape}
    if not matching:
        raise ValueError(
            f"none of the {len(weights)} weights matches the model by name and shape; "
            f"given: {abbreviate_names(weights)}; the model's: {abbreviate_names(own)}"
        )
    model.load_state_dict(matching, strict=False)
    return WeightTransfer(
        loaded=[name for name in own if name in matching],
        initialised=[name for name in own if name not in matching],
        unused=[name for name in weights if name not in matching],
        classes=None if outputs is None else sum(output is not None for output in outputs),
    )


def matching_weights(model: nn.Module, weights: Mapping[str, Tensor]) -> int:
    """How many weights of `model` `transfer_weights` would replace."""
    own = model.state_dict()
    return _count(_fitted(model, weights, own), own)


def _fitted(model: nn.Module, weights: Mapping[str, Tensor], own: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """`weights` under the names and, where they can be resampled, with the shapes of `model`."""
    stripped = without_prefix(weights, own)
    found = max([stripped, *_converted(model, stripped, own)], key=lambda each: _count(each, own))
    for name, module in model.named_modules():
        if isinstance(module, FixedLength):
            module.fit_weights(found, f"{name}.")
    return found


def _converted(model: nn.Module, weights: dict[str, Tensor], own: Mapping[str, Tensor]) -> Iterable[dict[str, Tensor]]:
    """`weights` through timm's conversion for checkpoints of the model's family, if it has one and any do not fit."""
    convert = getattr(sys.modules[type(model).__module__], "checkpoint_filter_fn", None)
    if convert is None or _count(weights, own) == len(own):
        return
    options = {"adapt_layer_scale": True} if "adapt_layer_scale" in inspect.signature(convert).parameters else {}
    try:
        yield {name: weight for name, weight in convert(weights, model, **options).items() if weight is not None}
    except (ArithmeticError, AssertionError, AttributeError, LookupError, RuntimeError, TypeError, ValueError):
        return  # they are of no kind that it knows: what does not fit is reported as unused


def _count(weights: Mapping[str, Tensor], own: Mapping[str, Tensor]) -> int:
    return sum(name in weights and weights[name].shape == weight.shape for name, weight in own.items())


def _heads_by_class(
    model: nn.Module, weights: Mapping[str, Tensor], outputs: Sequence[int | None]
) -> dict[str, Tensor]:
    """The weights of the classifiers, with the rows of `weights` at the classes to which they belong.

    None of them fits the model if there are no such classes.
    """
    places = [place for place, output in enumerate(outputs) if output is not None]
    rows = [output for output in outputs if output is not None]
    heads = model.get_classifier()
    inside = {part for head in (heads if isinstance(heads, tuple | list) else [heads]) for part in head.modules()}
    own = {name: p for owner, m in model.named_modules() if m in inside for name, p in _parameters_of(owner, m)}
    found = {}
    for name, weight in own.items():
        given = weights.get(name)
        if given is None or len(weight) != model.num_classes or given.shape[1:] != weight.shape[1:]:
            continue
        found[name] = weight.detach().clone() if rows else given[:0]
        found[name][places] = given[rows].to(weight.dtype)
    return found


def _parameters_of(owner: str, module: nn.Module) -> list[tuple[str, nn.Parameter]]:
    """Those of a linear layer or convolution, under their names in the model."""
    kinds = ("weight", "bias") if isinstance(module, nn.Linear | nn.Conv2d) else ()
    return [(f"{owner}.{kind}", p) for kind in kinds if (p := getattr(module, kind)) is not None]


def without_prefix(weights: Mapping[str, Tensor], own: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """`weights` without the prefix that makes the most of their names names of `own`."""
    prefixes: Counter[str] = Counter()
    for name in weights:
        parts = name.split(".")
        suffixes = (".".join(parts[start:]) for start in range(len(parts)))
        prefixes.update(name.removesuffix(suffix) for suffix in suffixes if suffix in own)
    [(prefix, count)] = prefixes.most_common(1) or [("", 0)]
    if count <= prefixes[""]:
        return dict(weights)
    return {name.removeprefix(prefix): weight for name, weight in weights.items()}


def _block(name: str) -> int | None:
    """The index of the block to which a weight belongs, in a model with one list of them."""
    return int(found[1]) if (found := re.match(r"blocks\.(\d+)\.", name)) else None


def abbreviate_names(names: Iterable[str]) -> str:
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


@torch.no_grad()
def transfer_all(old: nn.Module, new: nn.Module) -> list[str]:
    """Copy all weights and buffers of the same name and shape between attentions of one kind.

    Returns:
        the names of the parameters that were set, as in `parameters`.
    """
    own = new.state_dict()
    fitting = {name: t for name, t in old.state_dict().items() if name in own and own[name].shape == t.shape}
    new.load_state_dict(fitting, strict=False)
    had, has = parameters(old), parameters(new)
    return [name for name in has if _fits(had, has, name)]


def _fits(old: Mapping[str, Tensor], new: Mapping[str, Tensor], name: str) -> bool:
    return name in old and name in new and old[name].shape == new[name].shape
