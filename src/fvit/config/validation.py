"""Holding a composed configuration against a schema, with messages for people."""

from typing import Any

from omegaconf import DictConfig, OmegaConf
from pydantic import BaseModel, ValidationError, create_model

from fvit.config.errors import ConfigError, did_you_mean


def check(cfg: DictConfig, schema: type[BaseModel]) -> dict[str, Any]:
    """The resolved configuration as plain dicts, lists and numbers.

    Raises:
        ConfigError: a key is unknown, missing or of the wrong type or range, or two of them exclude each other.
    """
    missing = sorted(OmegaConf.missing_keys(cfg))
    if missing:
        raise ConfigError("\n".join(f"{key} must be given: {key}=…" for key in missing))
    plain = OmegaConf.to_container(cfg, resolve=True)
    try:
        schema.model_validate(plain)
    except ValidationError as error:
        raise ConfigError("\n".join(_explain(error, plain, schema))) from None
    return plain


def check_options(options: dict[str, Any], known: dict[str, Any], where: str) -> None:
    """Hold `options` against a constructor's signature.

    Raises:
        ValueError: an option is unknown or has the wrong type.
    """
    for name in options:
        if name not in known:
            near = did_you_mean(name, list(known))
            raise ValueError(f"{where} has no option '{name}'{near}; options: {_shorten(list(known))}")
    fields = {name: (known[name], ...) for name in options}
    try:
        create_model("Options", **fields).model_validate(options)
    except ValidationError as error:
        raise ValueError("\n".join(f"{where}.{line}" for line in _explain(error, options, BaseModel))) from None


def _shorten(names: list[str], most: int = 12) -> str:
    return ", ".join(names[:most] + ["…"] * (len(names) > most)) or "none"


def _explain(error: ValidationError, given: dict[str, Any], schema: type[BaseModel]) -> list[str]:
    """One line a key: its value, and what it should be, where a union's branches each say their own."""
    lines: dict[str, list[str]] = {}
    for item in error.errors():
        path, value = _locate(item["loc"], given)
        key = ".".join(path)
        if item["type"] == "value_error":
            lines.setdefault(str(item["ctx"]["error"]), [])
        elif item["type"] == "extra_forbidden":
            lines[f"unknown key {key}={value!r}{did_you_mean(path[-1], _siblings(path, schema))}"] = []
        elif item["type"] == "missing":
            lines[f"{'.'.join(map(str, item['loc']))} is missing"] = []
        else:
            message = item["msg"][0].lower() + item["msg"][1:]
            lines.setdefault(f"{key}={value!r}", []).append(message)
    return [
        f"{line}: {', or '.join(dict.fromkeys(messages))}" if messages else line for line, messages in lines.items()
    ]


def _locate(loc: tuple[int | str, ...], given: Any) -> tuple[list[str], Any]:
    """The keys of `loc` that the configuration has (pydantic adds the names of a union's branches), and the value."""
    path = []
    for part in loc:
        if not (isinstance(given, dict) and part in given) and not (isinstance(given, list) and isinstance(part, int)):
            continue
        path.append(str(part))
        given = given[part]
    return path, given


def _siblings(path: list[str], schema: type[BaseModel]) -> list[str]:
    """The keys that could have stood in place of the last one of `path`."""
    groups = getattr(schema, "also_known", ()) if len(path) == 1 else ()
    for part in path[:-1]:
        annotation = schema.model_fields[part].annotation if part in schema.model_fields else None
        if not (isinstance(annotation, type) and issubclass(annotation, BaseModel)):
            return []
        schema = annotation
    return [*schema.model_fields, *groups]
