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
    "attention": "torch",
    "models": "torch timm onnxruntime fvit.attention",
    "data": "torch torchvision timm lightning numpy scipy sklearn PIL simplejpeg isal "
    "fsspec aiohttp filelock pydantic pyarrow",
    "training": "torch timm lightning torchmetrics fvit.models",
    "cost": "torch timm fvit.attention fvit.models",
    "run": "torch lightning hydra omegaconf yaml pydantic rich PIL plotly matplotlib wandb dotenv optuna numpy scipy "
    "filelock wandb_workspaces fvit fvit.cost",
}

# Imported inside functions alone: it is slow to load, and most runs go without it.
LAZY = {"matplotlib", "wandb", "aiohttp", "plotly", "onnxruntime"}

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
        ("run", "import fvit.models\nimport fvit.data", ["fvit.models", "fvit.data"]),
        ("cost", "from fvit import train", ["fvit.train"]),
        ("cost", "import fvit", ["fvit"]),
        ("run", "import fvit.train", ["fvit.train"]),
        ("run", "import fvit\nfrom fvit import __version__\nfrom fvit.cost import count", []),
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
    assert len(eager_imports(source, "fvit.run")) == count
