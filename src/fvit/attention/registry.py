"""Mechanisms by name: `names`, `get`, `bind`, and `register` for your own."""

import copyreg
import functools
import importlib
import inspect
from collections.abc import Callable
from types import UnionType
from typing import Any, Union, get_args, get_origin

from fvit.attention.base import Mechanism

_MECHANISMS: dict[str, type[Mechanism]] = {}


def register(name: str) -> Callable[[type[Mechanism]], type[Mechanism]]:
    """Class decorator: register a mechanism as `name`.

    Raises:
        ValueError: the name is taken.
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
    """The class registered as `name`, or the class to import from ``package.module:Class``.

    Raises:
        ValueError: no such mechanism; the message lists those that exist.
    """
    if ":" in name:
        return _import(name)
    if name not in _MECHANISMS:
        raise ValueError(f"unknown attention '{name}'; registered: {', '.join(names())}")
    return _MECHANISMS[name]


class _BoundType(type):
    """The type of bound classes, which pickle cannot find under their name and therefore binds again."""


def _reduce(cls: _BoundType) -> str | tuple[Any, ...]:
    if "bound_options" not in vars(cls):  # a subclass of one, written somewhere
        return cls.__qualname__
    return functools.partial(bind, cls.unbound, **cls.bound_options), ()


copyreg.pickle(_BoundType, _reduce)


def bind(cls: type[Mechanism], **options: Any) -> type[Mechanism]:
    """A subclass of `cls` with fixed `options`, which take precedence over what a host passes.

    timm's ``attn_layer=`` requires a class (a `functools.partial` raises TypeError), hence a subclass.

    Raises:
        ValueError: `cls` has no such option, or one of another type; the message lists those that exist.
    """
    known = {
        name: parameter.annotation
        for name, parameter in inspect.signature(cls).parameters.items()
        if parameter.kind not in (parameter.VAR_POSITIONAL, parameter.VAR_KEYWORD)
    }
    for option, value in options.items():
        if option not in known:
            raise ValueError(f"{cls.__name__} has no option '{option}'; it takes: {', '.join(known)}")
        if not _has_type(value, known[option]):
            raise ValueError(f"{cls.__name__}: {option}={value!r} must be {inspect.formatannotation(known[option])}")
    if not options:
        return cls

    class Bound(cls, metaclass=_BoundType):
        def __init__(self, *args: Any, **kwargs: Any) -> None:
            super().__init__(*args, **{**kwargs, **options})

    Bound.__name__, Bound.__qualname__, Bound.__doc__ = cls.__name__, cls.__qualname__, cls.__doc__
    Bound.unbound, Bound.bound_options = unbound(cls), {**options, **getattr(cls, "bound_options", {})}
    return Bound


def unbound(cls: type) -> type:
    """The class that `bind` was given, for one that it made; any other class itself."""
    return getattr(cls, "unbound", cls)


def _has_type(value: Any, annotation: Any) -> bool:
    """Whether `value` has the annotated type; only bool, int, float, str and None are checked."""
    if get_origin(annotation) in (Union, UnionType):
        return any(_has_type(value, part) for part in get_args(annotation))
    if annotation is float:
        return type(value) in (int, float)
    return annotation not in (bool, int, str, type(None)) or type(value) is annotation


def _import(name: str) -> type[Mechanism]:
    module_name, class_name = name.split(":", 1)
    if not all(part.isidentifier() for part in (*module_name.split("."), class_name)):
        raise ValueError(f"attention '{name}' must have the form package.module:Class")
    if module_name.startswith("fvit.attention."):
        # The package also exports every mechanism under its name in version 0.1, when its file was elsewhere.
        known = getattr(importlib.import_module("fvit.attention"), class_name, None)
        if _is_mechanism(known):
            return known
    try:
        module = importlib.import_module(module_name)
    except ModuleNotFoundError as error:
        if f"{module_name}.".startswith(f"{error.name}."):  # and not an import inside that module
            raise ValueError(
                f"attention '{name}': there is no module '{error.name}'; install it or add its folder to PYTHONPATH. "
                "`python -m fvit.train` also searches the current folder, `fvit-train` does not"
            ) from error
        raise
    found = {key: value for key, value in vars(module).items() if _is_mechanism(value)}
    if class_name not in found:
        known = [key for key, cls in found.items() if cls.__name__ == key]
        raise ValueError(
            f"attention '{name}': {module_name} has no mechanism '{class_name}'; it has: {', '.join(known) or 'none'}. "
            "A mechanism is a subclass of fvit.attention.Mechanism"
        )
    return found[class_name]


def _is_mechanism(value: object) -> bool:
    return isinstance(value, type) and issubclass(value, Mechanism)
