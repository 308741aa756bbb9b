"""The console scripts, and Ctrl-C while they import their commands."""

import importlib
import os
import signal
import subprocess
import sys
import tomllib
from functools import partial
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]
SCRIPTS = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]["scripts"]


@pytest.mark.parametrize(("name", "entry"), SCRIPTS.items())
def test_each_script_runs_the_command_of_its_name(name, entry):
    module, _, function = entry.partition(":")
    found = getattr(importlib.import_module(module), function)
    assert isinstance(found, partial)
    assert found.args == (name.removeprefix("fvit-"),)


@pytest.mark.parametrize(("ignored", "code", "error"), [(False, 130, "interrupted\n"), (True, 0, "")])
def test_ctrl_c_during_the_imports_ends_quietly(tmp_path, ignored, code, error):
    """Of a script whose command takes long to import; a shell's background processes ignore the signal."""
    body = "import time; print('importing', flush=True); time.sleep(1)\ndef main(): print('done')\n"
    (tmp_path / "slow.py").write_text(body)
    start = "import signal, sys; sys.path.insert(0, '.'); import fvit; fvit.__path__.append('.')\n"
    # Explicitly, as these tests may run in the background themselves.
    start += f"signal.signal(signal.SIGINT, signal.{'SIG_IGN' if ignored else 'default_int_handler'})\n"
    process = subprocess.Popen(
        [sys.executable, "-c", f"{start}from fvit.launch.entry import _run; _run('slow')"],
        cwd=tmp_path,
        env={**os.environ, "PYTHONPATH": str(ROOT / "src")},
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )
    assert process.stdout.readline() == "importing\n"
    process.send_signal(signal.SIGINT)
    out, err = process.communicate(timeout=60)
    assert (process.returncode, err) == (code, error)
    assert out == ("done\n" if ignored else "")
