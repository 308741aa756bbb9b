"""Keeps the user's own code with a run: the modules that it imported, and the state of their git repositories.

A checkpoint names one's own mechanism by its import path only. The copies are those of the first run of a process, and
all jobs of a sweep share them: later changes of a file do not reach a module that is imported already.
"""

import os
import re
import subprocess
import sys
import sysconfig
from collections.abc import Iterator
from functools import cache
from pathlib import Path
from typing import Any

import fvit

FOLDER = "code"

_PACKAGE = Path(fvit.__file__).parent
_INSTALLED = tuple(f"{sysconfig.get_path(name)}{os.sep}" for name in ("stdlib", "platstdlib", "purelib", "platlib"))
_SITE = re.compile(r"[/\\](site|dist)-packages[/\\]")
_IMPORT_PATH = re.compile(r"([A-Za-z_]\w*)(?:\.\w+)*:[A-Za-z_]\w*(?:\*\d+)?")


def keep(run_dir: Path, config: dict[str, Any]) -> dict[str, Any]:
    """Copy the own modules and the uncommitted changes into the run directory.

    ``code/`` can be put on PYTHONPATH. A resumed run with other code gets it in ``code-2/`` and so on.

    Args:
        run_dir: an existing directory.
        config: the configuration; modules that it names are the user's own even if they are installed.

    Returns:
        what environment.json says of it: ``{"own_code": …}``, or nothing if there is no own code.
    """
    modules = own_modules(config)
    roots = {root for path in modules.values() if (root := _repository(path))}
    if (root := _repository(_PACKAGE)) and not _is_installed(f"{_PACKAGE}{os.sep}"):
        roots.add(root)
        modules |= _new_modules(root)
    files = {_place(name, path): _content(path) for name, path in modules.items()}
    repositories = []
    for number, root in enumerate(sorted(roots), 1):
        commit, diff = _state(root)
        place = f"{number}-{root.name}.diff" if diff else None
        files |= {place: diff} if place else {}
        repositories.append({"folder": str(root), "commit": commit, "diff": place})
    if not files:
        return {}
    folder = newest(run_dir)
    if folder is None or _read(folder) != files:
        folder = run_dir / (FOLDER if folder is None else f"{FOLDER}-{_number(folder) + 1}")
        for place, content in files.items():
            (folder / place).parent.mkdir(parents=True, exist_ok=True)
            (folder / place).write_bytes(content)
    sources = {name: str(path) for name, path in modules.items()}
    return {"own_code": {"folder": folder.name, "modules": sources, "repositories": repositories}}


def newest(run_dir: Path) -> Path | None:
    """The folder with the code of the newest start; None if the run has no own code."""
    return max(run_dir.glob(f"{FOLDER}*"), key=_number, default=None)


def own_modules(config: dict[str, Any]) -> dict[str, Path]:
    """The source files of the imported modules, by name, that are neither fvit's nor installed nor Python's own."""
    named = {found[1] for text in _texts(config) if (found := _IMPORT_PATH.fullmatch(text))}
    modules = {}
    for name, file in _imported().items():
        is_own = not _is_installed(file) or name.partition(".")[0] in named
        if is_own and not _is_ours(file) and os.path.isfile(file):
            modules[Path(file).stem if name == "__main__" else name] = Path(file).resolve()
    return modules


def _imported() -> dict[str, str]:
    """The files of thousands of modules, hence text; from `vars`, since attributes of some import further modules."""
    files = {name: getattr(module, "__dict__", {}).get("__file__") or "" for name, module in list(sys.modules.items())}
    return {name: file for name, file in files.items() if file.endswith(".py")}


def _is_ours(file: str) -> bool:
    return file.startswith((f"{_PACKAGE}{os.sep}", f"{_PACKAGE.parent / 'hydra_plugins'}{os.sep}"))


def _is_installed(file: str) -> bool:
    return file.startswith(_INSTALLED) or _SITE.search(file) is not None


def _new_modules(root: Path) -> dict[str, Path]:
    """Imported modules of fvit that its repository does not know: they are in no diff."""
    listed = _git(root, "ls-files", "-z", "--others", "--exclude-standard", "--", "*.py") or b""
    new = {str(root / name.decode(errors="surrogateescape")) for name in listed.split(b"\0") if name}
    return {name: Path(file) for name, file in _imported().items() if file in new and _is_ours(file)} if new else {}


def _place(name: str, path: Path) -> str:
    """Where a module is in the folder: ``pkg/mine.py`` for pkg.mine."""
    parts = name.replace(".", "/")
    return f"{parts}/__init__.py" if path.name == "__init__.py" else f"{parts}.py"


def _texts(value: Any) -> Iterator[str]:
    if isinstance(value, str):
        yield value
    elif isinstance(value, dict | list):
        for item in value.values() if isinstance(value, dict) else value:
            yield from _texts(item)


def _read(folder: Path) -> dict[str, bytes]:
    files = (path for path in folder.rglob("*") if path.is_file())
    return {path.relative_to(folder).as_posix(): path.read_bytes() for path in files}


def _number(folder: Path) -> int:
    """1 for ``code``, 2 for ``code-2``."""
    return int(folder.name.removeprefix(FOLDER).lstrip("-") or 1)


def _repository(path: Path) -> Path | None:
    return next((folder for folder in path.parents if (folder / ".git").exists()), None)


@cache
def _content(path: Path) -> bytes:
    return path.read_bytes()


def _state(root: Path) -> tuple[str | None, bytes]:
    """Commit and uncommitted changes; None without a commit or git."""
    commit = _git(root, "rev-parse", "HEAD")
    return commit and commit.decode().strip(), _git(root, "diff", "--no-ext-diff", "--no-color", "HEAD") or b""


@cache
def _git(root: Path, *arguments: str) -> bytes | None:
    try:
        return subprocess.run(["git", "-C", root, *arguments], capture_output=True, check=True, timeout=10).stdout
    except (OSError, subprocess.SubprocessError):
        return None
