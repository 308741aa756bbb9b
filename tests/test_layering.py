"""Who may import whom, read from the sources."""

import ast
import sys
from pathlib import Path

import pytest

import fvit

ROOT = Path(fvit.__file__).parent

# A folder may import the standard library, itself, and this. Entry points, src/fvit/*.py, may import all.
# `fvit` is the root alone, for its version and place; `fvit.cost` is the folder with all that is in it.
MAY_IMPORT = {
    "attention": "torch natten",
    "models": "torch timm numpy safetensors huggingface_hub onnxruntime PIL fvit fvit.attention",
    "data": "torch torchvision timm lightning numpy scipy sklearn PIL simplejpeg isal "
    "fsspec aiohttp filelock pydantic pyarrow fvit.config",
    "cost": "torch timm fvit.attention fvit.models",
    "tinysaver": "torch rich plotly fvit.config fvit.launch fvit.reports",
    "config": "hydra omegaconf pydantic yaml fvit",
    "launch": "torch lightning hydra omegaconf pydantic rich dotenv filelock fvit fvit.config",
    "training": "torch timm lightning torchmetrics sklearn numpy hydra open_clip "
    "fvit.attention fvit.models fvit.config fvit.launch",
    "callbacks": "torch timm lightning numpy rich fvit.cost fvit.models fvit.training fvit.config fvit.launch",
    "loggers": "torch lightning omegaconf wandb pydantic PIL "
    "fvit.cost fvit.models fvit.training fvit.config fvit.launch",
    "search": "optuna numpy filelock lightning hydra omegaconf plotly fvit.config fvit.launch fvit.reports",
    "reports": "numpy scipy hydra omegaconf yaml plotly rich wandb wandb_workspaces "
    "fvit fvit.cost fvit.config fvit.launch",
}

# Imported inside functions alone: it is slow to load, and most runs go without it.
LAZY = {"matplotlib", "wandb", "aiohttp", "plotly", "onnxruntime", "open_clip", "natten"}

FOLDERS = sorted({path.name for path in ROOT.iterdir() if path.is_dir() and path.name not in ("__pycache__", "conf")})
FILES = sorted(ROOT.rglob("*.py"))
ENTRY_POINTS = {f"fvit.{path.stem}" for path in ROOT.glob("*.py")} - {"fvit.__init__"}


def runs_later(node):
    """Whether what is inside runs when called, or never: for a type checker alone."""
    if isinstance(node, ast.If):
        return isinstance(node.test, ast.Name) and node.test.id == "TYPE_CHECKING" and not node.orelse
    return isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef | ast.Lambda)


def imports(source, package, lazy=True):
    """(line, absolute dotted name) of each import in `source`, a file of `package`; without the lazy ones, if asked."""
    found, todo = [], [ast.parse(source)]
    while todo:
        node = todo.pop()
        if isinstance(node, ast.Import):
            found += [(node.lineno, alias.name) for alias in node.names]
        elif isinstance(node, ast.ImportFrom):
            base = ".".join(package.split(".")[: len(package.split(".")) - node.level + 1]) if node.level else ""
            module = ".".join(part for part in (base, node.module) if part)
            for alias in node.names:
                # `from fvit import data` imports fvit.data, `from fvit import __version__` the root.
                is_folder_or_file = module == "fvit" and not alias.name.startswith("__")
                found.append((node.lineno, f"fvit.{alias.name}" if is_folder_or_file else module))
        if lazy or not runs_later(node):
            todo += ast.iter_child_nodes(node)
    return sorted(set(found))


def belongs_to(name, packages):
    return any(name == package or (package != "fvit" and name.startswith(f"{package}.")) for package in packages)


def forbidden_imports(source, folder, package):
    allowed = {*MAY_IMPORT[folder].split(), f"fvit.{folder}", *sys.stdlib_module_names}
    return [(line, name) for line, name in imports(source, package) if not belongs_to(name, allowed)]


def eager_imports(source, package):
    return [(line, name) for line, name in imports(source, package, lazy=False) if belongs_to(name, LAZY)]


def package_of(path):
    return ".".join(("fvit", *path.relative_to(ROOT).parent.parts))


def each_file(files, check):
    return [f"{path.relative_to(ROOT)}:{line} imports {name}" for path in files for line, name in check(path)]


def test_every_folder_has_a_row():
    assert set(FOLDERS) <= set(MAY_IMPORT)


@pytest.mark.parametrize("folder", MAY_IMPORT)
def test_folder_imports_only_what_it_may(folder):
    files = [path for path in FILES if path.relative_to(ROOT).parts[0] == folder]
    assert not each_file(files, lambda path: forbidden_imports(path.read_text(), folder, package_of(path)))


def test_no_folder_imports_an_entry_point():
    files = [path for path in FILES if path.parent != ROOT]
    assert not each_file(
        files,
        lambda path: [hit for hit in imports(path.read_text(), package_of(path)) if belongs_to(hit[1], ENTRY_POINTS)],
    )


@pytest.mark.parametrize("module", sorted(LAZY))
def test_slow_optional_module_is_imported_inside_functions(module):
    hits = each_file(FILES, lambda path: eager_imports(path.read_text(), package_of(path)))
    assert not [hit for hit in hits if module in hit]


@pytest.mark.parametrize("folder", ["config", "launch"])
def test_starting_up_does_not_wait_for_torch(folder):
    """--help, completion and a wrong override answer within a second."""
    slow = {"torch", "lightning", "timm"}
    files = [path for path in FILES if path.relative_to(ROOT).parts[0] == folder]
    assert not each_file(
        files,
        lambda path: [
            hit for hit in imports(path.read_text(), package_of(path), lazy=False) if belongs_to(hit[1], slow)
        ],
    )


def test_there_are_files_to_check():
    assert {"attention", "models", "cost"} <= set(FOLDERS)
    assert len(FILES) > 10


def test_no_arrow_runs_back():
    """Following the table from folder to folder never leads back to where one started."""
    arrows = {
        folder: {name.removeprefix("fvit.") for name in row.split() if name.startswith("fvit.")}
        for folder, row in MAY_IMPORT.items()
    }

    def reachable(folder):
        return arrows[folder] | {far for near in arrows[folder] for far in reachable(near)}

    assert not [folder for folder in arrows if folder in reachable(folder)]


def file_graph(sources):
    """{module: modules that it imports}, lazy imports counted; `sources` maps dotted names to texts."""
    graph = {}
    for name, source in sources.items():
        package = name if f"{name}.__init__" in sources else name.rpartition(".")[0]
        targets = set()
        for node in ast.walk(ast.parse(source)):
            if isinstance(node, ast.If) and isinstance(node.test, ast.Name) and node.test.id == "TYPE_CHECKING":
                continue  # read by type checkers alone
            if isinstance(node, ast.Import):
                targets |= {alias.name for alias in node.names}
            elif isinstance(node, ast.ImportFrom):
                parts = package.split(".")
                base = ".".join(parts[: len(parts) - node.level + 1]) if node.level else ""
                module = ".".join(part for part in (base, node.module) if part)
                # A submodule, else a name inside the module.
                targets |= {f"{module}.{a.name}" if f"{module}.{a.name}" in sources else module for a in node.names}
        graph[name] = (targets & set(sources)) - {name}
    return graph


def circles(graph):
    """The sets of modules that reach each other, by Tarjan's algorithm."""
    index, low, stack, found = {}, {}, [], []

    def visit(node):
        index[node] = low[node] = len(index)
        stack.append(node)
        for near in graph[node]:
            if near not in index:
                visit(near)
                low[node] = min(low[node], low[near])
            elif near in stack:
                low[node] = min(low[node], index[near])
        if low[node] == index[node]:
            part = {stack.pop()}
            while node not in part:
                part.add(stack.pop())
            if len(part) > 1:
                found.append(sorted(part))

    for node in graph:
        if node not in index:
            visit(node)
    return found


def typed_only(source):
    """The source without what stands under `if TYPE_CHECKING:`, which never runs."""
    tree = ast.parse(source)
    tree.body = [node for node in tree.body if not (isinstance(node, ast.If) and runs_later(node))]
    return ast.unparse(tree)


def test_no_circle_of_files():
    names = {".".join(("fvit", *path.relative_to(ROOT).with_suffix("").parts)): path for path in FILES}
    # A package is its __init__.py; a file that imports from its own package's __init__.py is a circle as well.
    sources = {name.removesuffix(".__init__"): typed_only(path.read_text()) for name, path in names.items()}
    assert circles(file_graph(sources)) == []


def test_circles_are_found():
    sources = {
        "fvit.a": "from fvit.b import x",
        "fvit.b": "def f():\n    from fvit import c",
        "fvit.c": "import fvit.a",
        "fvit.d": "import fvit.a",
        "fvit": "",
    }
    assert circles(file_graph(sources)) == [["fvit.a", "fvit.b", "fvit.c"]]


def test_no_folder_holds_more_than_a_fifth_of_the_lines():
    lines = {path: len(path.read_text().splitlines()) for path in FILES}
    total = sum(lines.values())
    share = {
        folder: sum(n for path, n in lines.items() if path.relative_to(ROOT).parts[0] == folder) / total
        for folder in FOLDERS
    }
    assert max(share.values()) <= 0.2, share


@pytest.mark.parametrize(
    ("folder", "source", "hits"),
    [
        ("attention", "import timm", ["timm"]),
        ("attention", "import torch.nn, timm.layers", ["timm.layers"]),
        ("attention", "from fvit.models import exchange", ["fvit.models"]),
        ("attention", "from fvit import models", ["fvit.models"]),
        ("attention", "from ..models.exchange import exchange", ["fvit.models.exchange"]),
        ("attention", "from .. import models", ["fvit.models"]),
        ("attention", "def f():\n    if True:\n        import lightning", ["lightning"]),
        ("models", "from fvit.training import Classifier", ["fvit.training"]),
        ("data", "import torchvision_extras", ["torchvision_extras"]),
        ("launch", "import fvit.models\nimport fvit.data", ["fvit.models", "fvit.data"]),
        ("config", "import torch", ["torch"]),
        ("cost", "from fvit import train", ["fvit.train"]),
        ("cost", "import fvit", ["fvit"]),
        ("launch", "import fvit.train", ["fvit.train"]),
        ("cost", "from fvit.models import exchange\nfrom fvit.cost import count", []),
        ("launch", "import fvit\nfrom fvit import __version__", []),
        ("attention", "import math\nimport torch\nfrom torch import nn\nfrom . import base\nfrom .base import X", []),
        ("models", "from fvit.attention.registry import get\nfrom fvit import attention", []),
    ],
)
def test_forbidden_imports_are_found(folder, source, hits):
    assert [name for _, name in forbidden_imports(source, folder, f"fvit.{folder}")] == hits


@pytest.mark.parametrize(
    ("source", "count"),
    [
        ("import wandb", 1),
        ("from wandb.sdk import x", 1),
        ("try:\n    import wandb\nexcept ImportError:\n    pass", 1),
        ("class A:\n    import wandb", 1),
        ("if sys.platform:\n    import wandb", 1),
        ("if TYPE_CHECKING:\n    import wandb", 0),
        ("if TYPE_CHECKING:\n    pass\nelse:\n    import wandb", 1),
        ("def f():\n    import wandb", 0),
        ("class A:\n    async def f(self):\n        from wandb import x", 0),
    ],
)
def test_eager_imports_are_found(source, count):
    assert len(eager_imports(source, "fvit.launch")) == count
