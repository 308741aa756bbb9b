"""Mechanisms by name: `names`, `get`, `bind`, and `register` for your own."""

import difflib
import importlib
import inspect
from collections.abc import Callable
from typing import Any

from fvit.attention.base import Mechanism

_MECHANISMS: dict[str, type[Mechanism]] = {}


def register(name: str) -> Callable[[type[Mechanism]], type[Mechanism]]:
    """Class decorator: make a mechanism known as `name`.

    Raises:
        ValueError: another class has that name.
    """

    def add(cls: type[Mechanism]) -> type[Mechanism]:
        if name in _MECHANISMS:
            raise ValueError(f"attention '{name}' is already registered, as {_MECHANISMS[name].__qualname__}")
        _MECHANISMS[name] = cls
        return cls

    return add


def names() -> list[str]:
    """All registered names, sorted."""
    return sorted(_MECHANISMS)


def get(name: str) -> type[Mechanism]:
    """The class registered as `name`, or the one that ``package.module:Class`` says where to import from.

    Raises:
        ValueError: no such mechanism; the text names the nearest ones.
    """
    if ":" in name:
        return _import(name)
    if name not in _MECHANISMS:
        raise ValueError(f"unknown attention '{name}'{did_you_mean(name, names())}; registered: {', '.join(names())}")
    return _MECHANISMS[name]


def bind(cls: type[Mechanism], **options: Any) -> type[Mechanism]:
    """A subclass of `cls` with `options` fixed: they win over what a host passes.

    timm insists on a class for ``attn_layer=`` (a `functools.partial` raises TypeError), hence a subclass.

    Raises:
        ValueError: `cls` has no such option; the text names the nearest ones.
    """
    known = [
        p.name for p in inspect.signature(cls).parameters.values() if p.kind not in (p.VAR_POSITIONAL, p.VAR_KEYWORD)
    ]
    for option in options:
        if option not in known:
            raise ValueError(
                f"{cls.__name__} has no option '{option}'{did_you_mean(option, known)}; it takes: {', '.join(known)}"
            )
    if not options:
        return cls

    class Bound(cls):
        def __init__(self, *args: Any, **kwargs: Any) -> None:
            super().__init__(*args, **{**kwargs, **options})

    Bound.__signature__ = inspect.signature(cls)
    Bound.__name__, Bound.__qualname__, Bound.__doc__ = cls.__name__, cls.__qualname__, cls.__doc__
    return Bound


def _import(name: str) -> type[Mechanism]:
    module_name, class_name = name.split(":", 1)
    if not all(part.isidentifier() for part in (*module_name.split("."), class_name)):
        raise ValueError(f"attention '{name}' is not of the form package.module:Class")
    try:
        module = importlib.import_module(module_name)
    except ModuleNotFoundError as error:
        if f"{module_name}.".startswith(f"{error.name}."):  # and not what the module itself imports
            raise ValueError(
                f"attention '{name}': there is no module '{error.name}' here; install it or put its folder on "
                "PYTHONPATH. The current folder is searched by `python -m fvit.train`, not by `fvit-train`"
            ) from error
        raise
    found = {key: value for key, value in vars(module).items() if _is_mechanism(value)}
    if class_name not in found:
        near = did_you_mean(class_name, list(found))
        raise ValueError(
            f"attention '{name}': {module_name} has no mechanism '{class_name}'{near}; it has: "
            f"{', '.join(found) or 'none'}. A mechanism is a subclass of fvit.attention.Mechanism"
        )
    return found[class_name]


def _is_mechanism(value: object) -> bool:
    return isinstance(value, type) and issubclass(value, Mechanism)


def did_you_mean(name: str, known: list[str]) -> str:
    """', did you mean a or b?' or ''."""
    near = difflib.get_close_matches(name, known, n=3, cutoff=0.5)
    return f", did you mean {' or '.join(near)}?" if near else ""
