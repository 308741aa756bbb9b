"""Which mechanism goes into which block: what `exchange` and the configuration accept as `attention` and `blocks`."""

import re
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

from fvit.attention import Mechanism, bind, get

AttentionSpec = str | type[Mechanism] | Mapping[str, Any]
"""One mechanism: a name (or ``package.module:Class``), ``"name*count"`` inside a list, a class, or a mapping of `name`
and options."""

BlockSpec = int | str | Iterable[int | str]
"""Block indices: numbers and ranges such as ``4-11``, both ends included, in a list or separated by commas."""


def attention_spec(config: Mapping[str, Any]) -> AttentionSpec | Sequence[AttentionSpec] | None:
    """Convert a configuration of the group `attention` into what `exchange` accepts; None for ``native``."""
    if config["name"] == "native":
        return None
    if config["name"] == "mixed":
        return list(config["layers"])
    return dict(config)


def as_config(attention: AttentionSpec | Sequence[AttentionSpec] | None) -> dict[str, Any]:
    """The inverse of `attention_spec`, for specifications of plain names and mappings."""
    if attention is None or isinstance(attention, str):
        return {"name": attention or "native"}
    return dict(attention) if isinstance(attention, Mapping) else {"name": "mixed", "layers": list(attention)}


def expand(attention: AttentionSpec | Sequence[AttentionSpec], depth: int) -> list[type[Mechanism]]:
    """One mechanism class per block.

    Raises:
        ValueError: unknown mechanism or option, or a list of another length than `depth`.
    """
    if isinstance(attention, str | type | Mapping):
        return [_resolve(attention)] * depth
    if not isinstance(attention, Sequence):
        raise ValueError(f"attention={attention!r} must be a name, a mapping, a Mechanism, or a list of these")
    classes: list[type[Mechanism]] = []
    for item in attention:
        name, count = item, 1
        if isinstance(item, str) and (match := re.fullmatch(r"\s*([\w.:]+)\s*[*×]\s*(\d+)\s*", item)):
            name, count = match[1], int(match[2])
        classes += [_resolve(name)] * count
    if len(classes) != depth:
        raise ValueError(f"attention lists {len(classes)} blocks and the model has {depth} to fill: {list(attention)}")
    return classes


def _resolve(spec: AttentionSpec) -> type[Mechanism]:
    if isinstance(spec, str):
        return get(spec)
    if isinstance(spec, type) and issubclass(spec, Mechanism):
        return spec
    if not isinstance(spec, Mapping):
        raise ValueError(f"attention {spec!r} must be a name, a mapping or a Mechanism")
    if "name" not in spec:
        raise ValueError(f"attention {dict(spec)} has no name; write name=additive, for example")
    return bind(get(spec["name"]), **{key: value for key, value in spec.items() if key != "name"})


def block_indices(blocks: BlockSpec) -> list[int]:
    """The indices named by `blocks`, in its order.

    Raises:
        ValueError: not an index or a range, a range that runs backwards, or a repeated index.
    """
    items = [blocks] if isinstance(blocks, int | str) else blocks
    indices: list[int] = []
    for part in (part for item in items for part in str(item).split(",")):
        match = re.fullmatch(r"\s*(-?\d+)\s*(?:-\s*(\d+)\s*)?", part)
        if match is None:
            raise ValueError(f"blocks={blocks!r}: {part!r} is not a block; write 4, 4-11 or [0,1,4-11]")
        first, last = int(match[1]), int(match[2] or match[1])
        if last < first:
            raise ValueError(f"blocks={blocks!r}: {part} runs backwards; write {last}-{first}")
        indices += range(first, last + 1)
    if len(set(indices)) < len(indices):
        raise ValueError(f"blocks {indices} names a block twice")
    return indices


def same_blocks(one: BlockSpec | None, other: BlockSpec | None) -> bool:
    """Whether two notations, such as 4-6 and [4, 5, 6], name the same blocks."""
    return one == other or (one is not None and other is not None and block_indices(one) == block_indices(other))


def same_mechanisms(
    one: AttentionSpec | Sequence[AttentionSpec] | None, other: AttentionSpec | Sequence[AttentionSpec] | None
) -> bool:
    """Whether two specifications name the same mechanisms in the same order, whatever their options."""
    return _names(one) == _names(other)


def _names(attention: AttentionSpec | Sequence[AttentionSpec] | None) -> Any:
    if isinstance(attention, Mapping):
        return attention.get("name")
    if isinstance(attention, Sequence) and not isinstance(attention, str):
        return [_names(item) for item in attention]
    return attention
