"""Constructors' signatures, read from source without importing it.

A configuration is checked before torch is imported, and the config is the constructor's signature, key for key. So the
signature is parsed from the file's text: one source of truth, and still an answer within a second.
"""

import ast
import importlib.util
from functools import cache
from importlib.machinery import ModuleSpec, PathFinder
from pathlib import Path
from typing import Any, Literal, Optional, Union

_TYPES = {
    "Literal": Literal,
    "Optional": Optional,
    "Union": Union,
    "bool": bool,
    "int": int,
    "float": float,
    "str": str,
    "None": None,
}


@cache
def signature(path: Path, cls: str | None = None, function: str = "__init__") -> dict[str, Any]:
    """Names and types of the parameters of a class's constructor, or of a module's function.

    A type that is not built from literals, bool, int, float and str is given as `Any`; ``*args`` and ``**kwargs``
    are left out. A class without a constructor has that of its first base.

    Args:
        path: the source file.
        cls: the class, which the file defines or imports by name; None for a function of the module.
        function: the method or the function.

    Raises:
        LookupError: the class, its first base or a module between them has no source that says where it is.
    """
    path, scope = (path, _parse(path)) if cls is None else _definition(path, cls)
    definition = next(
        (node for node in scope.body if isinstance(node, ast.FunctionDef) and node.name == function), None
    )
    if definition is None:
        return signature(path, _first_base(scope), function)
    arguments = [*definition.args.args, *definition.args.kwonlyargs]
    return {argument.arg: _type(argument.annotation) for argument in arguments if argument.arg != "self"}


def mechanism_signature(name: str) -> dict[str, Any] | None:
    """The options of a mechanism: one registered as `name`, or your own at ``package.module:Class``.

    None if the zoo has no file of that name, or the sources do not tell; then it is checked when it is built.
    """
    if ":" in name:
        module, cls = name.split(":", 1)
        try:
            return signature(_file_of(module), cls)
        except (LookupError, ValueError):
            return None
    path = Path(__file__).parents[1] / "attention" / "zoo" / f"{name}.py"
    if not path.is_file():
        return None
    for node in _parse(path).body:
        if isinstance(node, ast.ClassDef) and any(_registers(decorator, name) for decorator in node.decorator_list):
            return signature(path, node.name)
    return None


def source_signature(name: str) -> dict[str, Any]:
    """The options of a data source.

    Raises:
        ValueError: unknown source; the text lists the known ones.
    """
    package = Path(__file__).parents[1] / "data" / "sources"
    tables = [node for node in _parse(package / "__init__.py").body if isinstance(node, ast.AnnAssign)]
    known = next(ast.literal_eval(ast.List(table.value.keys)) for table in tables if table.target.id == "SOURCES")
    if name not in known:
        raise ValueError(f"unknown data source '{name}'; known: {', '.join(known)}")
    return signature(package / f"{name}.py", function=name)


def trainer_signature() -> dict[str, Any]:
    """The arguments of Lightning's Trainer."""
    return signature(_file_of("lightning.pytorch.trainer.trainer"), "Trainer")


def _definition(path: Path, cls: str) -> tuple[Path, ast.ClassDef]:
    """A class that `path` defines or imports by name, and the file in which it stands."""
    for node in _parse(path).body:
        if isinstance(node, ast.ClassDef) and node.name == cls:
            return path, node
        if isinstance(node, ast.ImportFrom) and node.module:
            for alias in node.names:
                if cls == (alias.asname or alias.name):
                    near = path.parents[node.level - 1] if node.level else None
                    return _definition(_file_of(node.module, near), alias.name)
    raise LookupError(f"{path} neither defines nor imports a class {cls}")


def _first_base(cls: ast.ClassDef) -> str:
    if cls.bases and isinstance(cls.bases[0], ast.Name):
        return cls.bases[0].id
    raise LookupError(f"class {cls.name} has no constructor and no base that is a plain name")


def _file_of(module: str, folder: Path | None = None) -> Path:
    """The source of a module, absolute or in `folder`, without importing it or the packages around it."""
    spec: ModuleSpec | None = None
    folders = None if folder is None else [str(folder)]
    name = ""
    for part in module.split("."):
        name = f"{name}.{part}".removeprefix(".")
        spec = importlib.util.find_spec(name) if folders is None else PathFinder.find_spec(name, folders)
        folders = (spec and spec.submodule_search_locations) or []
    if spec is None or not spec.has_location or not spec.origin.endswith(".py"):
        raise LookupError(f"module {module} has no source here")
    return Path(spec.origin)


def _parse(path: Path) -> ast.Module:
    return ast.parse(path.read_text(encoding="utf-8"))


def _registers(decorator: ast.expr, name: str) -> bool:
    return (
        isinstance(decorator, ast.Call)
        and isinstance(decorator.func, ast.Name)
        and decorator.func.id == "register"
        and [argument.value for argument in decorator.args if isinstance(argument, ast.Constant)] == [name]
    )


def _type(annotation: ast.expr | None) -> Any:
    if annotation is None:
        return Any
    names = {node.id for node in ast.walk(annotation) if isinstance(node, ast.Name)}
    if not names <= set(_TYPES) or any(isinstance(node, ast.Attribute) for node in ast.walk(annotation)):
        return Any
    return eval(compile(ast.Expression(annotation), "<annotation>", "eval"), {"__builtins__": {}}, dict(_TYPES))
