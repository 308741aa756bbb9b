"""Finds run directories and reads what each holds, however the run ended."""

import json
import math
import os
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

import yaml

from fvit.config.flatten import flatten
from fvit.launch.record import outcome

# Kept of each log of a run that did not finish.
_LOG_LINES = 15
_NOT_RUNS = {"wandb", "checkpoints", "csv"}
_SECTIONS = ("model", "data", "trainer")
_ENDED_EARLY = ("not started", "interrupted", "crashed", "killed")


@dataclass(frozen=True)
class Run:
    """What a run directory holds.

    Attributes:
        name: the directory relative to the folders that were asked for.
        status: as in metrics.json; ``not started`` without that file, ``unreadable`` if it is damaged.
        seconds: duration so far.
        metrics: the final ones that are finite.
        config: resolved; empty if the run did not get as far as writing it.
        overrides: from the command line.
        choices: the chosen option of each config group.
        environment: versions, commit, machine.
        last_written: of its status or curves, in seconds since 1970.
        has_trained: whether it left a checkpoint or a row of its curves.
        log: the last lines of its logs; empty for a finished run.
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
    last_written: float
    has_trained: bool
    log: tuple[str, ...]

    @property
    def finished(self) -> bool:
        return self.status == "finished"

    @property
    def is_debug(self) -> bool:
        """Whether it trained on a few batches only to see whether that works."""
        trainer = self.config.get("trainer") or {}
        return bool(self.choices.get("debug") or trainer.get("fast_dev_run") or trainer.get("overfit_batches"))

    @property
    def never_started(self) -> bool:
        """Whether its command was refused, or ended before it had trained."""
        if self.status in ("finished", "unreadable"):
            return False
        return "model" not in self.config or (self.status in _ENDED_EARLY and not self.has_trained)

    @property
    def takes_part(self) -> bool:
        """Whether it belongs in a comparison."""
        return self.status in ("finished", "running") and "model" in self.config and not self.is_debug

    @property
    def seed(self) -> int | None:
        return self.config.get("seed")

    @cached_property
    def flat_config(self) -> dict[str, str]:
        """Values as text by dotted key. ``${output_dir}`` replaces the run's own directory in them."""
        flat = {key: as_text(value) for key, value in flatten(self.config).items()}
        if not isinstance(folder := self.config.get("output_dir"), str):
            return flat
        return {key: text.replace(folder, "${output_dir}") for key, text in flat.items()} | {"output_dir": folder}


def as_text(value: Any) -> str:
    """As written on the command line."""
    if isinstance(value, str):
        return value
    if isinstance(value, float):
        return f"{value:g}" if float(f"{value:g}") == value else repr(value)
    return json.dumps(value, default=str)


def collect_runs(roots: Sequence[Path]) -> list[Run]:
    """All runs in and below `roots`, each once, in natural order. Hydra or a status has left a file in each."""
    folders = _folders_with(("metrics.json", ".hydra"), roots)
    if not folders:
        return []
    base = Path(os.path.commonpath([root.resolve() for root in roots]))
    return [_read_run(folder, str(folder.relative_to(base)) if folder != base else folder.name) for folder in folders]


def find_benchmarks(roots: Sequence[Path]) -> list[Path]:
    """The bench.json in and below `roots`, each once, the newest first."""
    found = [folder / "bench.json" for folder in _folders_with(("bench.json",), roots)]
    return sorted(found, key=lambda path: path.parent.name, reverse=True)


def _folders_with(names: Sequence[str], roots: Sequence[Path]) -> list[Path]:
    """Folders that contain one of `names`; there is none inside another."""
    found = set()
    for root in roots:
        for path, folders, files in os.walk(root.resolve()):
            if not {*folders, *files}.isdisjoint(names):
                found.add(Path(path))
                folders.clear()
            folders[:] = [name for name in folders if name not in _NOT_RUNS and not name.startswith(".")]
    return sorted(found, key=_natural)


def _natural(folder: Path) -> list[tuple[int, str]]:
    """Sorts job 10 after job 9."""
    return [(int(part), "") if part.isdigit() else (-1, part) for part in folder.parts]


def _read_run(folder: Path, name: str) -> Run:
    status, error, seconds, metrics = _read_status(folder)
    config = _read_mapping(folder / "config.yaml")
    hydra = _mapping(_read_mapping(folder / ".hydra" / "hydra.yaml").get("hydra"))
    written = (folder, folder / "metrics.json", folder / "csv" / "metrics.csv")
    return Run(
        name=name,
        folder=folder,
        status=status,
        error=error,
        seconds=seconds,
        metrics=metrics,
        # The file may be somebody else's.
        config={key: value for key, value in config.items() if key not in _SECTIONS or isinstance(value, dict)},
        overrides=tuple(_mapping(hydra.get("overrides")).get("task") or ()),
        choices=_mapping(_mapping(hydra.get("runtime")).get("choices")),
        environment=_read_mapping(folder / "environment.json"),
        has_trained=(folder / "csv" / "metrics.csv").exists() or (folder / "checkpoints").exists(),
        last_written=max(path.stat().st_mtime for path in written if path.exists()),
        log=() if status == "finished" else tuple(_last_lines(folder)),
    )


def _read_status(folder: Path) -> tuple[str, str | None, float, dict[str, float]]:
    """Status, error, seconds and metrics."""
    try:
        content = outcome(folder)
        if content is None:
            return "not started", None, 0.0, {}
        metrics = {name: float(value) for name, value in content["metrics"].items()}
        status, error, seconds = content["status"], content.get("error"), float(content.get("seconds", 0.0))
        if not isinstance(status, str) or not isinstance(error, str | None):
            raise TypeError(f"status {status!r}, error {error!r}")
    except (ValueError, KeyError, TypeError, AttributeError, OverflowError) as wrong:
        reason = f"metrics.json is damaged or not from fvit ({type(wrong).__name__}: {wrong})"
        return "unreadable", reason, 0.0, {}
    return status, error, seconds, {name: value for name, value in metrics.items() if math.isfinite(value)}


def _read_mapping(path: Path) -> dict[str, Any]:
    """A YAML or JSON file; empty if it is missing or damaged. OmegaConf's own loader takes seven times as long."""
    try:
        if path.suffix == ".json":
            return _mapping(json.loads(path.read_bytes()))
        return _mapping(yaml.load(path.read_bytes(), getattr(yaml, "CSafeLoader", yaml.SafeLoader)))
    except (FileNotFoundError, ValueError, yaml.YAMLError):
        return {}


def _mapping(value: Any) -> dict[str, Any]:
    return value if isinstance(value, dict) else {}


def _last_lines(folder: Path) -> Iterator[str]:
    """Of the logs of all ranks."""
    for path in sorted(folder.glob("*.log")):
        with path.open("rb") as file:
            file.seek(max(0, path.stat().st_size - 20_000))
            lines = file.read().decode("utf-8", errors="replace").rstrip().splitlines()
        yield f"{path.name}:"
        yield from lines[-_LOG_LINES:]
