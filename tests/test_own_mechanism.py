"""docs/own_mechanism.md works as written, and so does the tutorial: code, commands and the case for the test suite."""

import importlib
import json
import os
import re
import shlex
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from fvit.attention import registry
from fvit.models import attention_spec, build
from tests.tasks import call

from .test_zoo import load

ROOT = Path(__file__).resolve().parents[1]


def blocks(language, page="own_mechanism"):
    text = (ROOT / "docs" / f"{page}.md").read_text(encoding="utf-8")
    return re.findall(rf"^```{language}\n(.*?)^```", text, flags=re.MULTILINE | re.DOTALL)


MINE, USE, REFERENCE, DOCSTRING = blocks("python")
[CASE] = blocks("text")
*TRAININGS, SUITE = (line for block in blocks("bash") for line in block.splitlines())
TUTORIAL = [line for block in blocks("bash", "first_run") for line in block.splitlines() if "mine:" in line]


def run(arguments, folder):
    """The output of a command called in `folder`."""
    environment = {**os.environ, "OMP_NUM_THREADS": "1"}
    done = subprocess.run(arguments, cwd=folder, env=environment, capture_output=True, text=True, timeout=900)
    assert done.returncode == 0, done.stdout[-4000:] + done.stderr[-4000:]
    return done.stdout


@pytest.fixture
def folder(tmp_path, monkeypatch):
    """An importable folder with mine.py, which is unregistered again afterwards."""
    (tmp_path / "mine.py").write_text(MINE, encoding="utf-8")
    monkeypatch.syspath_prepend(tmp_path)
    monkeypatch.setattr(registry, "_MECHANISMS", dict(registry._MECHANISMS))
    yield tmp_path
    sys.modules.pop("mine", None)
    importlib.invalidate_caches()


def test_the_mechanism_has_ten_lines():
    assert len([line for line in MINE.splitlines() if line.strip()]) == 10


def test_the_tutorial_has_the_same_mechanism():
    assert blocks("python", "first_run") == [MINE]


def test_the_python_example_runs(folder, capsys):
    names = {}
    exec(compile(USE, "own_mechanism.md", "exec"), names)
    assert "Cost(params=" in capsys.readouterr().out
    kinds = [type(block.attn).__name__ for block in names["mixed"].blocks]
    assert kinds == ["Squared"] * 8 + ["SoftmaxAttention"] * 4


@pytest.mark.parametrize("line", [*TRAININGS, *TUTORIAL])
def test_the_command_builds_its_model(folder, compose_config, line):
    words = [word for word in shlex.split(line) if "=" in word and not word.startswith("seed=")]
    options = compose_config(*words)["model"]
    attention = attention_spec(options.pop("attention"))
    model = build(**{**options, "num_classes": 10}, img_size=32, attention=attention)
    assert type(model.blocks[0].attn).__name__ == "Squared"


@pytest.mark.usefixtures("folder")
def test_an_unknown_option_is_refused():
    with pytest.raises(ValueError, match=r"Squared has no option 'proj_dorp'.*: dim, num_heads"):
        build("vit_tiny_patch16_224", 32, 10, {"name": "mine:Squared", "proj_dorp": 0.1})


@pytest.mark.slow
def test_its_code_is_kept_by_each_job_of_a_sweep(folder):
    small = ["data=fake", "data.num_images=64", "model.embed_dim=24", "model.depth=1", "debug=limit"]
    own = ["attention=own", "model.attention.name=mine:Squared"]
    assert call(folder, "train", "-m", *own, *small, "logger=none", "seed=0,1") == 0
    [sweep] = (folder / "logs" / "train" / "multiruns").iterdir()
    for job in ("0", "1"):
        assert (sweep / job / "code" / "mine.py").read_text(encoding="utf-8") == MINE
        noted = json.loads((sweep / job / "environment.json").read_text())["own_code"]
        assert noted["modules"]["mine"] == str(folder / "mine.py")


@pytest.mark.slow
@pytest.mark.parametrize(
    ("line", "hardware"),
    [
        (TRAININGS[0], "ddp_cpu"),
        *((line, "cpu") for line in TRAININGS[1:]),
        *(pytest.param(line, "ddp_cpu", marks=pytest.mark.exhaustive) for line in TRAININGS[1:]),
        pytest.param(TRAININGS[0], "cpu", marks=pytest.mark.exhaustive),
    ],
)
def test_the_command_trains(folder, line, hardware):
    arguments = [*shlex.split(line)[3:], "debug=limit", f"hardware={hardware}"]
    if hardware == "cpu":
        assert call(folder, "train", *arguments) == 0
    else:  # from the current directory alone, in all processes
        run([sys.executable, "-m", "fvit.train", *arguments], folder)
    [metrics] = (folder / "logs" / "train" / "runs").glob("*/metrics.json")
    assert json.loads(metrics.read_text())["status"] == "finished"
    assert (metrics.parent / "code" / "mine.py").read_text(encoding="utf-8") == MINE


@pytest.mark.slow
def test_the_case_adds_it_to_the_suite(folder):
    shutil.copytree(ROOT / "tests" / "attention", folder / "tests" / "attention")
    (folder / "tests" / "__init__.py").touch()
    (folder / "tests" / "attention" / "refs" / "squared.py").write_text(REFERENCE, encoding="utf-8")
    cases = folder / "tests" / "attention" / "cases.py"
    text = cases.read_text(encoding="utf-8").replace("    xca,\n)", "    squared,\n    xca,\n)")
    cases.write_text(text.replace("CASES = [\n", f"CASES = [\n{CASE}"), encoding="utf-8")
    output = run([sys.executable, *shlex.split(SUITE)[1:], "-p", "no:cacheprovider"], folder)
    assert int(re.search(r"(\d+) passed", output)[1]) > 25


def test_the_docstring_has_the_form_of_the_zoo(tmp_path, monkeypatch):
    (tmp_path / "documented.py").write_text(DOCSTRING + MINE.replace('"squared"', '"documented"'), encoding="utf-8")
    monkeypatch.syspath_prepend(tmp_path)
    monkeypatch.setattr(registry, "_MECHANISMS", dict(registry._MECHANISMS))
    described = load("zoo").describe(importlib.import_module("documented").Squared)
    assert described.summary.startswith("Squared attention")
    assert described.cost == "O(N²·D) besides the four projections"
