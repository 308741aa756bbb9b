"""Vision transformers whose attention is interchangeable.

``import fvit`` alone loads neither torch nor timm; `fvit.load`, `fvit.exchange`, `fvit.count` and `fvit.attention` load
what they need on first use. ``import fvit.models`` registers fvit's model names with timm, and so does ``import fvit``
if timm is already imported.
"""

import importlib
import sys
from typing import Any

__version__ = "0.2.0"

_FUNCTIONS = {"load": "fvit.loading", "exchange": "fvit.models", "count": "fvit.cost"}


def __getattr__(name: str) -> Any:
    if name == "attention":
        return importlib.import_module("fvit.attention")
    if name in _FUNCTIONS:
        return getattr(importlib.import_module(_FUNCTIONS[name]), name)
    raise AttributeError(f"module 'fvit' has no attribute '{name}'")


def __dir__() -> list[str]:
    return sorted({*globals(), *_FUNCTIONS, "attention"})


if "timm" in sys.modules:
    importlib.import_module("fvit.models")
