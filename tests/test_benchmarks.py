"""The scripts of benchmarks/, which are in no package: that they start, and that one of them says what it promises."""

import importlib.util
import json
from pathlib import Path

import pytest
import torch

FOLDER = Path(__file__).resolve().parents[1] / "benchmarks"


def load(name):
    """benchmarks/NAME.py, as it is before its main function."""
    spec = importlib.util.spec_from_file_location(f"benchmarks_{name}", FOLDER / f"{name}.py")
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


@pytest.fixture(autouse=True)
def threads():
    before = torch.get_num_threads()
    yield
    torch.set_num_threads(before)


@pytest.mark.parametrize("name", sorted(path.stem for path in FOLDER.glob("*.py")))
def test_every_script_can_be_imported_and_has_a_main(name, monkeypatch):
    monkeypatch.syspath_prepend(FOLDER)  # as where one is run; some take from others
    assert callable(load(name).main)


def test_additive_prints_a_table_and_writes_json(monkeypatch, tmp_path, capsys):
    """Every row, of models that are narrow and images that are small."""
    script = load("additive")
    build = script.build
    monkeypatch.setattr(script, "build", lambda *args, **options: build(*args, **{**options, "depth": 1}))
    monkeypatch.setattr(script, "SHAPES", {name: dict(embed_dim=24, num_heads=3) for name in script.SHAPES})
    rows = [tuple(32 if part in (384, 1024) else part for part in row) for row in script.ROWS]
    monkeypatch.setattr(script, "ROWS", rows)
    monkeypatch.setattr("importlib.util.find_spec", lambda name: None)
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr("sys.argv", ["additive.py", "--rounds", "3", "--threads", "1"])
    script.main()
    text = capsys.readouterr().out
    content = json.loads((tmp_path / "logs" / "benchmarks" / "additive.json").read_text(encoding="utf-8"))
    assert content["machine"]["threads"] == 1
    assert {"name", "torch", "timm", "python"} <= set(content["machine"])
    theirs = [number for number, row in enumerate(script.ROWS) if "fast-transformer" in row[0]]
    assert [row["row"] for row in content["results"]] == [n for n in range(len(script.ROWS)) if n not in theirs]
    assert text.count("skipped, pip install fast-transformer-pytorch") == len(theirs)
    for row in content["results"]:
        assert 0 < row["low"] <= row["median"] <= row["high"]
        [line] = [line for line in text.splitlines() if line.startswith(f"| {row['row']} ")]
        assert [cell.strip() for cell in line.strip("| ").split("|")][1:3] == [row["name"], row["target"]]
