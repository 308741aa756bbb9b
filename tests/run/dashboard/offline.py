"""Runs of W&B that were kept here, read by W&B's own command."""

import json
import subprocess
import sys
from pathlib import Path


def read_run(folder: Path):
    """(configuration, summary, rows of the history) of the run in ``folder``, an ``offline-run-…``."""
    [file] = folder.glob("*.wandb")
    command = [sys.executable, "-m", "wandb", "leet", "inspect", "--json", str(file)]
    told = subprocess.run(command, capture_output=True, text=True, check=True, timeout=60).stdout
    config, summary, rows = {}, {}, []
    for record in map(json.loads, told.splitlines()):
        match record["type"]:
            case "config":
                config |= record["config"]["update"]
            case "summary":
                summary |= record["summary"]["update"]
            case "history":
                rows.append(record["history"]["item"])
    return config, summary, rows
