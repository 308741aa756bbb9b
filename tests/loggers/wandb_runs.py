"""What stands in W&B's offline runs, as W&B's own reader tells it."""

import json
import subprocess
import sys
from functools import cached_property
from pathlib import Path
from typing import Any


class Read:
    """A run of W&B.

    Attributes:
        kinds: of its records.
        run: the record that says what it is.
        rows: what was logged.
        axes: what `define_metric` has each metric drawn over, by its name or pattern.
        system: what W&B measured by itself.
        artifacts: what it used and made.
        environment: what W&B noted of the process.
        files: its folder.
    """

    def __init__(self, path: Path) -> None:
        self.path, self.files = path, path.parent / "files"
        records = [json.loads(line) for line in _inspect(path).splitlines()]

        def of(kind: str) -> list[dict[str, Any]]:
            return [record[kind] for record in records if record["type"] == kind]

        self.kinds = {record["type"] for record in records}
        self.run = (of("run") or [{}])[0]  # nothing, where W&B's process was killed before it wrote
        self.rows = [row["item"] for row in of("history")]
        self.axes = {one.get("name") or one["glob_name"]: one.get("step_metric") for one in of("metric")}
        self.system = [stats["item"] for stats in of("stats")]
        self.artifacts = of("artifact")
        self.environment = {key: value for one in of("environment") for key, value in one.items()}

    @cached_property
    def summed(self) -> dict[str, Any]:
        """State, exit code, configuration and summary."""
        return json.loads(_inspect(self.path, "--summary"))

    @property
    def logged(self) -> tuple[dict[str, Any], dict[str, Any], list[dict[str, Any]]]:
        """Configuration, summary and rows."""
        return self.summed["config"], self.summed["summary"], self.rows


def runs(folder: Path) -> list[Read]:
    """All of a folder wandb/, the oldest first."""
    return [Read(path) for path in sorted(folder.glob("offline-run-*/*.wandb"), key=lambda p: p.stat().st_mtime_ns)]


def _inspect(path: Path, *options: str) -> str:
    command = [sys.executable, "-m", "wandb", "leet", "inspect", "--json", *options, str(path)]
    return subprocess.run(command, capture_output=True, text=True, check=True).stdout
