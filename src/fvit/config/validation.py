"""Checks a composed configuration against its schema, and options against the function that will receive them."""

import inspect
import types
import typing
from collections.abc import Callable, Collection, Iterable, Mapping
from typing import Any

from omegaconf import MISSING, DictConfig, OmegaConf
from pydantic import BaseModel, ValidationError, create_model

from fvit.config.errors import REMOVED, ConfigError, did_you_mean, unknown_key
from fvit.config.flatten import flatten


def check(cfg: DictConfig, schema: type[BaseModel]) -> dict[str, Any]:
    """The resolved configuration as plain dicts, lists and numbers.

    Raises:
        ConfigError: a key is missing, unknown, of the wrong type or out of range, or two keys exclude each other.
    """
    # Not by OmegaConf.missing_keys, which resolves, and fails at whatever refers to a missing key.
    unresolved = flatten(OmegaConf.to_container(cfg, resolve=False))
    if missing := sorted(key for key, value in unresolved.items() if value == MISSING):
        advise = getattr(schema, "advise", lambda key, cfg: "")
        raise ConfigError("\n".join(f"{key} must be given: {advise(key, cfg) or f'{key}=…'}" for key in missing))
    plain = OmegaConf.to_container(cfg, resolve=True)
    if removed := REMOVED.keys() & flatten(plain).keys():
        raise ConfigError("\n".join(f"{key} {REMOVED[key]}" for key in removed))
    try:
        schema.model_validate(plain)
    except ValidationError as error:
        raise ConfigError("\n".join(_messages(error, plain, schema))) from None
    return plain


def check_arguments(
    function: Callable[..., Any], options: Mapping[str, Any], where: str, reserved: Collection[str] = ()
) -> None:
    """Check options against the signature of the function that will receive them.

    Names pass unchecked if the function takes ``**kwargs``, and so do types other than bool, int, float, str, None and
    literals.

    Args:
        function: a function, or a class for its constructor.
        options: keyword arguments; keys with a leading underscore, such as ``_target_``, are Hydra's.
        where: path of the options in the configuration.
        reserved: parameters that the configuration cannot set.

    Raises:
        ConfigError: an option is unknown or of the wrong type.
    """
    options = {name: value for name, value in options.items() if not name.startswith("_")}
    parameters = inspect.signature(function).parameters.values()
    kwargs = any(parameter.kind is parameter.VAR_KEYWORD for parameter in parameters)
    known = {
        parameter.name: parameter.annotation if _is_plain(parameter.annotation) else Any
        for parameter in parameters
        if parameter.kind not in (parameter.VAR_POSITIONAL, parameter.VAR_KEYWORD) and parameter.name not in reserved
    }
    for name, value in options.items():
        if name in reserved:
            raise ConfigError(f"{where}.{name}={value!r} cannot be set: fvit sets it")
        if name not in known and not kwargs:
            raise ConfigError(unknown_key(f"{where}.{name}", value, known))
    try:
        create_model("Options", **{name: (known.get(name, Any), ...) for name in options}).model_validate(options)
    except ValidationError as error:
        raise ConfigError("\n".join(f"{where}.{line}" for line in _messages(error, options, BaseModel))) from None


def check_baseline(baseline: str, attentions: Iterable[str], done: str) -> None:
    """Refuse a `baseline` that is none of the `attentions` that were `done`, unless it is the default."""
    known = list(dict.fromkeys(attentions))
    if baseline not in ("softmax", *known):
        raise ConfigError(
            f"baseline={baseline} was not {done}{did_you_mean(baseline, known)}; {done}: {', '.join(known)}"
        )


def _is_plain(annotation: Any) -> bool:
    if typing.get_origin(annotation) in (typing.Union, types.UnionType):
        return all(map(_is_plain, typing.get_args(annotation)))
    return annotation in (bool, int, float, str, None, type(None)) or typing.get_origin(annotation) is typing.Literal


def _messages(error: ValidationError, given: dict[str, Any], schema: type[BaseModel]) -> list[str]:
    """One line per key: its value and what it should be; the branches of a union are joined by 'or'."""
    lines: dict[str, list[str]] = {}
    for item in error.errors():
        path, value = _locate(item["loc"], given)
        key = ".".join(path)
        if item["type"] == "value_error":
            lines.setdefault(str(item["ctx"]["error"]), [])
        elif item["type"] == "extra_forbidden":
            lines[unknown_key(key, value, _siblings(path, schema))] = []
        elif item["type"] == "missing":
            lines[f"{'.'.join(map(str, item['loc']))} is missing"] = []
        else:
            message = item["msg"][0].lower() + item["msg"][1:]
            lines.setdefault(f"{key}={value!r}", []).append(message)
    return [
        f"{line}: {', or '.join(dict.fromkeys(messages))}" if messages else line for line, messages in lines.items()
    ]


def _locate(loc: tuple[int | str, ...], given: Any) -> tuple[list[str], Any]:
    """The keys of `loc` that are in the configuration (pydantic adds the branches of unions), and the value there."""
    path = []
    for part in loc:
        is_item = isinstance(given, list) and isinstance(part, int) and part < len(given)
        if not (isinstance(given, dict) and part in given) and not is_item:
            continue
        path.append(str(part))
        given = given[part]
    return path, given


def _siblings(path: list[str], schema: type[BaseModel]) -> list[str]:
    """The keys allowed where the last one of `path` stands."""
    groups = getattr(schema, "groups", ()) if len(path) == 1 else ()
    for part in path[:-1]:
        annotation = schema.model_fields[part].annotation if part in schema.model_fields else None
        if not (isinstance(annotation, type) and issubclass(annotation, BaseModel)):
            return []
        schema = annotation
    return [*schema.model_fields, *groups]
