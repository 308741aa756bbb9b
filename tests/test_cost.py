"""Counted figures in docs/cost.md. Timings are those of one machine and are not tested."""

import re
from pathlib import Path

import pytest
from hydra import initialize_config_dir

from fvit.config.paths import conf_dir
from fvit.cost import count
from fvit.cost.match import make, match_count
from fvit.reports.bench.grid import compose_point
from tests.scripts import load

TEXT = (Path(__file__).resolve().parents[1] / "docs" / "cost.md").read_text(encoding="utf-8")
NUMBER = r"([\d.,]+)"
ROWS = re.findall(
    rf"^\| (\w+) \| (\w+) \| (\d+) \| {NUMBER} \| {NUMBER} \| {NUMBER} \| {NUMBER} \| {NUMBER} \| {NUMBER} \|$",
    TEXT,
    flags=re.MULTILINE,
)
MATCHED = re.findall(
    rf"^\| (\w+) \| (\w+) \| (\d+) \| (\d+) \| 12 \| ([+-][\d.]+) \| {NUMBER} \| {NUMBER} \| {NUMBER} \|$",
    TEXT,
    flags=re.MULTILINE,
)


def cell(model, attention):
    chosen = ["model=timm", f"model.name={model}"] if attention == "native" else [f"model={model}"]
    with initialize_config_dir(str(conf_dir()), version_base="1.3"):
        return compose_point([*chosen, f"attention={attention}"]).options


def three(value):
    return float(f"{value:.3g}")


def test_tables_are_found():
    assert len(ROWS) == 6 * 5 + 7
    assert len(MATCHED) == 6


@pytest.mark.parametrize(
    ("model", "attention", "res", "params", "macs", "paper", "saved", "peak", "training"),
    [
        pytest.param(*row, marks=[pytest.mark.slow] * bool(index % 12) + [pytest.mark.exhaustive] * bool(index % 4))
        for index, row in enumerate(ROWS)
    ],
)
def test_counted_figures(model, attention, res, params, macs, paper, saved, peak, training):
    size = int(res)
    cost = count(make(cell(model, attention), size, 1000, on_meta=True), size)
    found = [three(cost.params / 1e6), three(cost.macs / 1e9), three(cost.macs_paper / 1e9)]
    assert found == [float(params), float(macs), float(paper)]


@pytest.mark.slow
@pytest.mark.parametrize(
    ("model", "attention", "res", "width", "error", "params", "macs", "paper"),
    [pytest.param(*row, marks=pytest.mark.exhaustive) if index % 6 else row for index, row in enumerate(MATCHED)],
)
def test_matched_figures(model, attention, res, width, error, params, macs, paper):
    found = match_count(cell(model, attention), cell("vit_small", "softmax"), int(res), 1000, "macs")
    assert (found.model["embed_dim"], f"{100 * found.error:+.1f}") == (int(width), error)
    assert three(found.cost / 1e9) == float(macs)


def test_published_numbers_are_those_of_the_file():
    pages = load("published")
    assert pages.with_tables(TEXT, {"published": pages.cost_table()}) == TEXT, "run make published"


def test_figures_exist():
    for name in re.findall(r"!\[[^]]*\]\((.*?)\)", TEXT):
        assert (Path(__file__).resolve().parents[1] / "docs" / name).is_file()
