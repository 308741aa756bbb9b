"""Vision transformers whose attention is interchangeable.

``import fvit`` alone loads neither torch nor timm. ``import fvit.models`` registers fvit's model names with timm, and
so does ``import fvit`` if timm is already imported.
"""

import importlib
import sys

__version__ = "0.2.0"

if "timm" in sys.modules:
    importlib.import_module("fvit.models")
