import csv
import json
import math

import pytest

from fvit.launch.console import console
from fvit.reports.bench import report
from tests.reports.bench.found import CONFIG, MACHINE, failed, law, row


@pytest.fixture
def shown(tmp_path):
    def show(rows, **config):
        with console.capture() as capture:
            report.show(rows, {**CONFIG, **config}, MACHINE, tmp_path)
        return capture.get(), tmp_path

    return show


def test_files_hold_all_that_was_found(shown):
    rows = [*law("softmax", lambda n: n**2 * 1e-8), *law("slow", lambda n: n**2 * 3e-8), failed()]
    text, folder = shown(rows)
    assert {path.name for path in folder.iterdir()} == {"bench.csv", "bench.json", "bench.html"}
    for path in folder.iterdir():
        assert str(path) in text
    with (folder / "bench.csv").open(encoding="utf-8") as file:
        lines = list(csv.DictReader(file))
    assert len(lines) == 7
    assert (lines[0]["model"], lines[0]["attention"], lines[0]["res"], lines[0]["tokens"]) == (
        "vit_tiny",
        "softmax",
        "224",
        "197",
    )
    assert float(lines[0]["latency_ms"]) == pytest.approx(197**2 * 1e-5)
    assert (lines[-1]["status"], lines[-1]["latency_ms"]) == ("out of memory", "")
    content = json.loads((folder / "bench.json").read_text(encoding="utf-8"), parse_constant=pytest.fail)
    assert content["machine"] == MACHINE
    assert content["config"]["batch"] == 4
    assert {"command", "packages", "git_commit"} <= set(content["environment"])
    assert content["rows"][0]["seconds"]["latency_ms"] == list(rows[0].runs["latency_ms"].seconds)
    assert content["rows"][-1]["status"] == "out of memory"
    softmax, slow = content["growth"]
    assert softmax["forward"]["value"] == pytest.approx(2)
    assert slow["overtakes"]["value"] is None, "not up to the largest"


def test_what_a_person_reads(shown):
    text, _ = shown([row("softmax"), row("additive")])
    for words in ("Size and memory", "Time", "Published by others, not measured here", "arXiv:2012.12877"):
        assert words in text
    assert "On Abacus, 2 threads of 4 CPUs, torch 2.0; candidates of one size took turns in one process." in text
    assert "Growth" not in text, "there is one size"


def test_with_a_budget_nothing_grows_and_nothing_is_quoted(shown):
    text, folder = shown(law("softmax", lambda n: n), match="macs", to="vit_tiny")
    assert "Growth" not in text
    assert "Published" not in text
    assert json.loads((folder / "bench.json").read_text())["growth"] == []


@pytest.mark.parametrize(
    ("candidates", "quoted"),
    [
        (["model=vit_tiny", "attention=softmax"], True),
        (["model=timm", "model.name=[vit_tiny]"], True),
        (["model=vit_tiny", "model.depth=4"], False),
        (["++model.attention.qk_norm=true"], False),
    ],
)
def test_others_are_quoted_beside_models_that_are_as_named(shown, candidates, quoted):
    text, _ = shown([row()], candidates=candidates)
    assert ("Published by others" in text) is quoted


def test_where_nothing_was_found_there_is_nothing_to_draw(shown):
    text, folder = shown([failed("softmax")])
    assert {path.name for path in folder.iterdir()} == {"bench.csv", "bench.json"}
    assert "out of memory" in text


def test_infinity_is_null():
    assert report._finite({"a": [1.0, (math.inf, -math.inf)], "b": "inf"}) == {"a": [1.0, [None, None]], "b": "inf"}
