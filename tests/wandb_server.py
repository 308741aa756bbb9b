"""A W&B server on this machine: openwandb, which serves W&B's protocol and keeps runs in a folder."""

import json
import socket
import sqlite3
import subprocess
import sys
import time
from contextlib import closing, contextmanager
from importlib.util import find_spec
from pathlib import Path
from urllib.error import URLError
from urllib.request import urlopen

import pytest

API_KEY = "local" + 40 * "0"  # of the user that it creates
_START_SECONDS = 60
_OF_RUN = "SELECT * FROM {} WHERE run_id = ?"


class Server:
    """What the server at `url`, which keeps its data in `folder`, has received."""

    def __init__(self, url, folder):
        self.url, self.folder = url, folder
        self.environment = {"WANDB_BASE_URL": url, "WANDB_API_KEY": API_KEY, "WANDB_MODE": "online"}

    def runs(self, project):
        """The runs of a project, the oldest first, with their `config`, `summary` and `tags`."""
        query = "SELECT runs.* FROM runs JOIN projects ON projects.id = project_id WHERE name = ? ORDER BY runs.id"
        runs = self._read(query, project)
        for run in runs:
            run |= {key: json.loads(run[f"{key}_json"]) for key in ("config", "summary", "tags")}
            run["config"] = {key: kept["value"] for key, kept in run["config"].items()}
        return runs

    def curve(self, run_id, metric):
        """The values of a metric, in the order of W&B's steps."""
        query = "SELECT value FROM metrics WHERE run_id = ? AND key = ? ORDER BY step, id"
        return [row["value"] for row in self._read(query, run_id, metric)]

    def files(self, run_id):
        """The content of a run's files, by name."""
        return {row["name"]: Path(row["path"]).read_bytes() for row in self._read(_OF_RUN.format("files"), run_id)}

    def artifacts(self, run_id):
        """The types of a run's artifacts; the server has their metadata, but not their files."""
        return [row["artifact_type"] for row in self._read(_OF_RUN.format("artifacts"), run_id)]

    def system(self, run_id):
        """The names of W&B's system metrics of a run."""
        return {row["key"] for row in self._read(_OF_RUN.format("system_metrics"), run_id)}

    def _read(self, query, *values):
        # Not through the server, whose answers cannot hold a metric that is not a number.
        with closing(sqlite3.connect(f"file:{self.folder / 'openwandb.db'}?mode=ro", uri=True)) as database:
            database.row_factory = sqlite3.Row
            return [dict(row) for row in database.execute(query, values)]


@contextmanager
def serving(folder):
    """A server with an empty database; skips the test if it is not installed or does not start."""
    if find_spec("openwandb") is None:
        pytest.skip("needs a W&B server: pip install openwandb")
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    command = [sys.executable, "-m", "openwandb", "serve", "--host", "127.0.0.1", "-p", str(port), "--data-dir", folder]
    with open(folder / "log.txt", "w") as log:
        process = subprocess.Popen(command, stdout=log, stderr=subprocess.STDOUT, cwd=folder)
    try:
        _wait(process, f"http://127.0.0.1:{port}", folder / "log.txt")
        yield Server(f"http://127.0.0.1:{port}", folder)
    finally:
        process.terminate()
        process.wait(20)


def _wait(process, url, log):
    for _ in range(10 * _START_SECONDS):
        try:
            urlopen(f"{url}/login", timeout=5).close()
            return
        except URLError:
            if process.poll() is not None:
                break
            time.sleep(0.1)
    pytest.skip(f"openwandb does not start: {log.read_text()[-300:]}")
