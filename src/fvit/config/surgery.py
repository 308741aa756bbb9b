"""What `model.blocks` and `model.keep` may hold. As in `fvit.models`, which this must not import: it brings torch."""

import re
from typing import Any

from fvit.config.errors import did_you_mean

KEEP = ("qkv", "q", "k", "v", "proj")


def check_blocks(blocks: Any) -> Any:
    """`blocks` itself, if it is null, an index, a range such as 4-11, or a list of these.

    Raises:
        ValueError: it is none of them, or a range runs backwards.
    """
    items = blocks if isinstance(blocks, list) else [] if blocks is None else [blocks]
    for part in (part for item in items for part in str(item).split(",")):
        match = re.fullmatch(r"\s*(\d+)\s*(?:-\s*(\d+)\s*)?", part)
        if match is None:
            raise ValueError(f"model.blocks={blocks!r}: {part!r} is no block; write 4, 4-11, [0,1,4-11] or null")
        if match[2] and int(match[2]) < int(match[1]):
            raise ValueError(f"model.blocks={blocks!r}: {part} runs backwards; write {match[2]}-{match[1]}")
    return blocks


def check_keep(keep: Any) -> Any:
    """`keep` itself, if it is a list of what can be kept.

    Raises:
        ValueError: it is no list, or a name in it is unknown.
    """
    if not isinstance(keep, list):
        raise ValueError(f"model.keep={keep!r} is no list; write model.keep=[{'' if keep is None else keep}]")
    for name in keep:
        if name not in KEEP:
            raise ValueError(
                f"model.keep has no {name!r}{did_you_mean(str(name), list(KEEP))}; it takes: {', '.join(KEEP)}"
            )
    return keep


def check_effects(model: dict[str, Any]) -> None:
    """Hold what belongs to surgery against what makes it one.

    Raises:
        ValueError: a setting has no effect.
    """
    for key in ("blocks", "keep"):
        if model[key] not in (None, []) and model["attention"].get("name") == "native":
            raise ValueError(f"model.{key} has no effect with attention=native; choose an attention to exchange")
    if model["keep"] and model["blocks"] == []:
        raise ValueError("model.keep has no effect with model.blocks=[]; name the blocks, or null for all")
    if model.get("pretrained_cfg_overlay") and not model["pretrained"]:
        raise ValueError("model.pretrained_cfg_overlay has no effect without model.pretrained=true")
