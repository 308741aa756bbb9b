"""Constructors' signatures, read from source without importing it.

A configuration is checked before torch is imported, and the config is the constructor's signature, key for key. So the
signature is parsed from the file's text: one source of truth, and still an answer within a second.
"""

import ast
import importlib.util
from functools import cache
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
    are left out. A class without a constructor has that of its first base, which it imports by name.

    Args:
        path: the source file.
        cls: the class; None for a function of the module.
        function: the method or the function.
    """
    module = ast.parse(path.read_text(encoding="utf-8"))
    scope: ast.Module | ast.ClassDef = module
    if cls is not None:
        scope = next(node for node in module.body if isinstance(node, ast.ClassDef) and node.name == cls)
    definition = next(
        (node for node in scope.body if isinstance(node, ast.FunctionDef) and node.name == function), None
    )
    if definition is None:
        base = scope.bases[0].id
        return signature(_file_of(base, module), base, function)
    arguments = [*definition.args.args, *definition.args.kwonlyargs]
    return {argument.arg: _type(argument.annotation) for argument in arguments if argument.arg != "self"}


def mechanism_signature(name: str) -> dict[str, Any] | None:
    """The options of the mechanism registered as `name`; None if no file of the zoo has that name."""
    path = Path(__file__).parents[1] / "attention" / f"{name}.py"
    if not path.is_file():
        return None
    for node in ast.parse(path.read_text(encoding="utf-8")).body:
        if isinstance(node, ast.ClassDef) and any(_registers(decorator, name) for decorator in node.decorator_list):
            return signature(path, node.name)
    return None


def source_signature(name: str) -> dict[str, Any]:
    """The options of a data source.

    Raises:
        ValueError: unknown source; the text lists the known ones.
    """
    package = Path(__file__).parents[1] / "data" / "sources"
    body = ast.parse((package / "__init__.py").read_text(encoding="utf-8")).body
    tables = [node for node in body if isinstance(node, ast.AnnAssign)]
    known = next(ast.literal_eval(ast.List(table.value.keys)) for table in tables if table.target.id == "SOURCES")
    if name not in known:
        raise ValueError(f"unknown data source '{name}'; known: {', '.join(known)}")
    return signature(package / f"{name}.py", function=name)


def trainer_signature() -> dict[str, Any]:
    """The arguments of Lightning's Trainer."""
    package = importlib.util.find_spec("lightning")
    return signature(Path(package.origin).parent / "pytorch" / "trainer" / "trainer.py", "Trainer")


def _file_of(name: str, module: ast.Module) -> Path:
    """The file from which a module of ours imports `name`."""
    imports = [node for node in module.body if isinstance(node, ast.ImportFrom)]
    source = next(node.module for node in imports if any(alias.name == name for alias in node.names))
    return Path(__file__).parents[2].joinpath(*source.split(".")).with_suffix(".py")


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
