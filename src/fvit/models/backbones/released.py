"""Weights that the authors of a backbone released, under the names that its parameters have here.

A key map is a list of substitutions, applied in order to each of the authors' names, as `re.sub` takes them; None
leaves out what has no counterpart here, such as tables that are computed anew.
"""

import re
from argparse import Namespace
from collections import OrderedDict
from collections.abc import Callable, Mapping, Sequence
from typing import Any

from timm.models import clean_state_dict
from torch import Tensor

KeyMap = Sequence[tuple[str, str | Callable[[re.Match[str]], str] | None]]

ARGUMENTS = [Namespace, (OrderedDict, "yacs.config.CfgNode")]
"""What training scripts pickle beside the weights, for `torch.serialization.safe_globals`."""

_CONTAINERS = ("state_dict_ema", "model_ema", "state_dict", "model")
"""Where training scripts put the weights in a checkpoint, averaged ones first, as timm looks for them."""


def weights_of(checkpoint: Mapping[str, Any]) -> dict[str, Tensor]:
    """The weights in a training script's checkpoint, without the prefixes of DDP and torch.compile."""
    inner = next((checkpoint[key] for key in _CONTAINERS if isinstance(checkpoint.get(key), Mapping)), checkpoint)
    return clean_state_dict(dict(inner))


def renamed(weights: Mapping[str, Tensor], key_map: KeyMap) -> dict[str, Tensor]:
    """`weights` under the names that `key_map` gives them; a name that it does not mention stays."""
    found = {}
    for name, tensor in weights.items():
        new = _new_name(name, key_map)
        if new is not None:
            found[new] = tensor
    return found


def _new_name(name: str, key_map: KeyMap) -> str | None:
    for pattern, replacement in key_map:
        if replacement is not None:
            name = re.sub(pattern, replacement, name)
        elif re.search(pattern, name):
            return None
    return name
