"""Runs as their folders tell of them: ended well or not, and whatever is missing."""

import json
import math
import os
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import yaml

from fvit.launch.run_dir import outcome

# Lines of each log that are kept of a run that did not finish.
_LINES = 15
_NEVER_A_RUN = {"wandb", "checkpoints", "csv"}
_GROUPS = ("model", "data", "trainer")


@dataclass(frozen=True)
class Run:
    """One folder.

    Attributes:
        name: the folder, as short as the folders that were asked for allow.
        folder: the same, whole.
        status: of metrics.json: ``finished``, ``failed``, ``running``, …; ``crashed`` if its process no longer exists;
            ``not started`` without one, ``unreadable`` where it is damaged.
        error: why it failed.
        seconds: that it took, as far as it was told.
        metrics: the finite ones, at its end.
        config: resolved; empty if the run never wrote it.
        overrides: of the command line.
        choices: the option of each config group.
        environment: versions, commit, machine.
        touched: when its record or its curves were last written, in seconds since 1970.
        log: the last lines of its logs; of a finished run none.
    """

    name: str
    folder: Path
    status: str
    error: str | None
    seconds: float
    metrics: dict[str, float]
    config: dict[str, Any]
    overrides: tuple[str, ...]
    choices: dict[str, str | None]
    environment: dict[str, Any]
    touched: float
    log: tuple[str, ...]

    @property
    def finished(self) -> bool:
        """Whether its metrics are those of its end."""
        return self.status == "finished"

    @property
    def seed(self) -> int | None:
        """None if the run never wrote its configuration."""
        return self.config.get("seed")


def gather(roots: Sequence[Path]) -> list[Run]:
    """All runs in and below `roots`, each once, in the order of their names.

    A folder is a run's if Hydra or a record has written into it.
    """
    folders = sorted({folder for root in roots for folder in _folders(root.resolve(), _is_run)}, key=_natural)
    if not folders:
        return []
    base = Path(os.path.commonpath([root.resolve() for root in roots]))
    return [_read(folder, str(folder.relative_to(base)) if folder != base else folder.name) for folder in folders]


def find_benchmarks(roots: Sequence[Path]) -> list[Path]:
    """The bench.json in and below `roots`, each once, the newest first."""
    found = {folder / "bench.json" for root in roots for folder in _folders(root.resolve(), _is_benchmark)}
    return sorted(found, key=lambda path: path.parent.name, reverse=True)


def _is_run(names: set[str]) -> bool:
    return "metrics.json" in names or ".hydra" in names


def _is_benchmark(names: set[str]) -> bool:
    return "bench.json" in names


def _folders(root: Path, wanted: Any) -> Iterator[Path]:
    for path, folders, files in os.walk(root):
        if wanted({*folders, *files}):
            yield Path(path)
            folders.clear()
        folders[:] = [name for name in folders if name not in _NEVER_A_RUN and not name.startswith(".")]


def _natural(folder: Path) -> list[tuple[int, str]]:
    """Job 10 comes after job 9."""
    return [(int(part), "") if part.isdigit() else (-1, part) for part in folder.parts]


def _read(folder: Path, name: str) -> Run:
    status, error, seconds, metrics = _record(folder)
    config = _yaml(folder / "config.yaml")
    hydra = _mapping(_yaml(folder / ".hydra" / "hydra.yaml").get("hydra"))
    written = [folder / "metrics.json", folder / "csv" / "metrics.csv"]
    return Run(
        name=name,
        folder=folder,
        status=status,
        error=error,
        seconds=seconds,
        metrics=metrics,
        # What should be a group and is none was written by somebody else.
        config={key: value for key, value in config.items() if key not in _GROUPS or isinstance(value, dict)},
        overrides=tuple(_mapping(hydra.get("overrides")).get("task") or ()),
        choices=_mapping(_mapping(hydra.get("runtime")).get("choices")),
        environment=_json(folder / "environment.json"),
        touched=max((path.stat().st_mtime for path in (folder, *written) if path.exists()), default=0.0),
        log=() if status == "finished" else tuple(_last_lines(folder)),
    )


def _record(folder: Path) -> tuple[str, str | None, float, dict[str, float]]:
    """Status, error, seconds and metrics, of which none may be there."""
    try:
        content = outcome(folder)
        if content is None:
            return "not started", None, 0.0, {}
        metrics = {name: float(value) for name, value in content["metrics"].items()}
        told = content["status"], content.get("error"), float(content.get("seconds", 0.0))
        if not isinstance(told[0], str) or not isinstance(told[1], str | None):
            raise TypeError(f"status {told[0]!r}, error {told[1]!r}")
    except (ValueError, KeyError, TypeError, AttributeError, OverflowError) as error:
        return "unreadable", f"metrics.json is damaged or none of a run ({type(error).__name__}: {error})", 0.0, {}
    return *told, {name: value for name, value in metrics.items() if math.isfinite(value)}


def _yaml(path: Path) -> dict[str, Any]:
    """The content; empty if there is none, or it was cut off. OmegaConf's loader takes seven times as long."""
    try:
        content = yaml.load(path.read_bytes(), getattr(yaml, "CSafeLoader", yaml.SafeLoader))
    except (FileNotFoundError, yaml.YAMLError):
        return {}
    return _mapping(content)


def _json(path: Path) -> dict[str, Any]:
    try:
        content = json.loads(path.read_bytes())
    except (FileNotFoundError, ValueError):
        return {}
    return _mapping(content)


def _mapping(value: Any) -> dict[str, Any]:
    return value if isinstance(value, dict) else {}


def _last_lines(folder: Path) -> Iterator[str]:
    """Of the run's own log, and of those that further processes of it leave."""
    for path in sorted(folder.glob("*.log")):
        with path.open("rb") as file:
            file.seek(max(0, path.stat().st_size - 20_000))
            lines = file.read().decode("utf-8", errors="replace").rstrip().splitlines()
        yield f"{path.name}:"
        yield from lines[-_LINES:]
