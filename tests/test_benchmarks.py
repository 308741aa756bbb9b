"""The scripts of benchmarks/, which are in no package: that they start, and that one of them says what it promises."""

import importlib.util
import json
import sys
from pathlib import Path
from types import SimpleNamespace

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


@pytest.fixture
def gpu(monkeypatch, tmp_path):
    """benchmarks/gpu.py, called with arguments; returns its exit code and gpu.json."""
    monkeypatch.syspath_prepend(FOLDER)
    script = load("gpu")

    def call(*arguments):
        monkeypatch.setattr(sys, "argv", ["gpu.py", "--device", "cpu", "--tiny", "--out", str(tmp_path), *arguments])
        code = 0
        try:
            script.main()
        except SystemExit as stop:
            code = stop.code
        return code, json.loads((tmp_path / "gpu.json").read_text())

    call.script = script
    return call


def broken(report):
    report.measured("before it", ms=1.0)
    with report.attempt("one of several"):
        raise ValueError("a part\nof it")
    raise RuntimeError("no such kernel")


def wrong(report):
    nan = float("nan")
    report.claim("an error is small", nan <= 1, error=nan)


def fine(report):
    report.claim("one is one", True, value=1)
    report.skipped("two GPUs", "one GPU")


BROKEN = ["measured", "failed: ValueError: a part", "failed: RuntimeError: no such kernel"]


@pytest.mark.parametrize(
    ("steps", "seconds", "code", "statuses"),
    [
        ([fine], 9, 0, ["holds", "skipped: one GPU"]),
        ([broken, fine], 9, 1, [*BROKEN, "holds", "skipped: one GPU"]),
        ([wrong], 9, 1, ["does not hold"]),
        ([fine], 0, 1, ["failed: no time left"]),
    ],
)
def test_gpu_check_hides_no_failure(gpu, monkeypatch, capsys, steps, seconds, code, statuses):
    monkeypatch.setitem(sys.modules, "gpu_check.some", SimpleNamespace(**{step.__name__: step for step in steps}))
    monkeypatch.setattr(gpu.script, "STEPS", {step.__name__: "some" for step in steps})
    assert gpu("--only", ",".join(gpu.script.STEPS), "--seconds", str(seconds))[0] == code
    found = gpu("--only", ",".join(gpu.script.STEPS), "--seconds", str(seconds))[1]["rows"]
    assert [row["status"] for row in found] == statuses
    text = capsys.readouterr()
    for status in statuses:
        assert status in text.out
        assert status in text.err or not status.startswith(("failed", "does not"))


def test_gpu_check_runs_without_what_only_training_needs(gpu, monkeypatch):
    for name in ("lightning", "hydra", "fvit.data", "fvit.train"):
        monkeypatch.setitem(sys.modules, name, None)
    monkeypatch.setitem(sys.modules, "gpu_check.training", None)
    code, content = gpu("--only", "rates,forms,trainer")
    assert code == 1
    assert [row["step"] for row in content["rows"] if row["status"].startswith("failed")] == ["trainer"]


@pytest.mark.slow
@pytest.mark.exhaustive  # takes a minute; tests/test_missing_packages.py has three of its steps
@pytest.mark.filterwarnings("ignore:Mismatch dtype between input and weight")  # differential attention by autocast
def test_gpu_check_in_small_on_a_cpu(gpu):
    """All steps; what only CUDA tells is skipped."""
    code, content = gpu()
    assert code == 0, [row for row in content["rows"] if row["status"].startswith(("failed", "does"))]
    assert {row["step"] for row in content["rows"]} == set(gpu.script.STEPS)
    assert not [row for row in content["rows"] if "skipped" in row["status"] and "CUDA" not in row["status"]]
