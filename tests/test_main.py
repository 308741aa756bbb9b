"""python -m fvit lists the commands of pyproject.toml."""

import subprocess
import sys
import tomllib
from pathlib import Path

import pytest

from fvit import __main__

ROOT = Path(__file__).resolve().parents[1]
INSTALLED = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]["scripts"]


def test_every_command_has_a_line():
    done = subprocess.run([sys.executable, "-m", "fvit"], capture_output=True, text=True, timeout=60)
    assert done.returncode == 0, done.stderr
    lines = done.stdout.partition("\n\n")[0].splitlines()
    assert [line.split()[0] for line in lines] == sorted(INSTALLED)
    assert all(len(line.split()) > 3 for line in lines)


def test_the_commands_are_not_imported(monkeypatch, capsys):
    for name in INSTALLED:
        monkeypatch.setitem(sys.modules, f"fvit.{name.removeprefix('fvit-')}", None)
    monkeypatch.setattr(sys, "argv", ["fvit"])
    __main__.main()
    assert "fvit-train" in capsys.readouterr().out


def test_the_nearest_command_is_suggested(monkeypatch):
    monkeypatch.setattr(sys, "argv", ["fvit", "trian"])
    with pytest.raises(SystemExit, match="did you mean fvit-train"):
        __main__.main()
