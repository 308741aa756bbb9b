"""Vision transformers whose attention is interchangeable.

`import fvit` makes timm know the names ``fvit_*``, without importing timm itself: `fvit.attention` needs torch
alone, and command lines answer ``--help`` in a second. The names are registered as soon as timm is imported, or at
once if it already is.
"""

import importlib
import importlib.abc
import importlib.machinery
import sys
from types import ModuleType

__version__ = "0.2.0"


class _RegisterAfterTimm(importlib.abc.MetaPathFinder, importlib.abc.Loader):
    """Import hook that lets timm load as usual, then imports `fvit.models`."""

    def find_spec(self, name: str, path: object = None, target: object = None) -> importlib.machinery.ModuleSpec | None:
        if name != "timm":
            return None
        others = (finder for finder in sys.meta_path if finder is not self)
        spec = next((found for finder in others if (found := finder.find_spec(name, path, target))), None)
        if spec is not None:
            self.wrapped, spec.loader = spec.loader, self
        return spec

    def create_module(self, spec: importlib.machinery.ModuleSpec) -> ModuleType | None:
        return self.wrapped.create_module(spec)

    def exec_module(self, module: ModuleType) -> None:
        module.__spec__.loader = module.__loader__ = self.wrapped
        self.wrapped.exec_module(module)
        sys.meta_path.remove(self)
        importlib.import_module("fvit.models")


if "timm" in sys.modules:
    importlib.import_module("fvit.models")
else:
    sys.meta_path.insert(0, _RegisterAfterTimm())
