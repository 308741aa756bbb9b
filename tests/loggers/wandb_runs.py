"""The contents of offline W&B runs, read by W&B's own reader."""

import json
import subprocess
import time
from functools import cached_property
from pathlib import Path
from typing import Any

from wandb.util import get_core_path


class Read:
    """A W&B run.

    Attributes:
        kinds: of its records.
        run: its name, id, group and tags.
        rows: what was logged.
        axes: the x-axis of each metric, or pattern of metrics, from `define_metric`.
        system: W&B's system metrics.
        artifacts: used and created.
        environment: W&B's record of the process.
        files: its directory.
    """

    def __init__(self, path: Path) -> None:
        self.path, self.files = path, path.parent / "files"
        for _ in range(30):  # W&B's service may still be writing when `finish` returns; it never ends a killed run
            records = [json.loads(line) for line in _inspect(path).splitlines()]
            if any(record["type"] == "exit" for record in records):
                break
            time.sleep(0.1)

        def of(kind: str) -> list[dict[str, Any]]:
            return [record[kind] for record in records if record["type"] == kind]

        self.kinds = {record["type"] for record in records}
        self.run = (of("run") or [{}])[0]  # empty if W&B's service was killed before it wrote
        self.rows = [row["item"] for row in of("history")]
        self.axes = {one.get("name") or one["glob_name"]: one.get("step_metric") for one in of("metric")}
        self.system = [stats["item"] for stats in of("stats")]
        self.artifacts = of("artifact")
        self.environment = {key: value for one in of("environment") for key, value in one.items()}

    @cached_property
    def summed(self) -> dict[str, Any]:
        """State, exit code, config and summary."""
        return json.loads(_inspect(self.path, "--summary"))

    @property
    def logged(self) -> tuple[dict[str, Any], dict[str, Any], list[dict[str, Any]]]:
        """Config, summary and rows."""
        return self.summed["config"], self.summed["summary"], self.rows


def runs(folder: Path) -> list[Read]:
    """The runs in a directory wandb/, the oldest first."""
    return [Read(path) for path in sorted(folder.glob("offline-run-*/*.wandb"), key=lambda p: p.stat().st_mtime_ns)]


def _inspect(path: Path, *options: str) -> str:
    # What `wandb leet inspect` starts, without the second that importing wandb takes.
    command = [get_core_path(), "leet", "inspect", "--no-observability", "--json", *options]
    command += ["--run-file", str(path.resolve()), str(path.resolve().parents[1])]
    return subprocess.run(command, capture_output=True, text=True, check=True).stdout
