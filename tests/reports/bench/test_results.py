import csv
import json
import re

import pytest

from fvit.reports.bench.charts import make_charts
from fvit.reports.bench.results import _record, render_page, report_results
from fvit.reports.bench.tables import make_tables
from fvit.reports.web.tables import Table
from tests.reports.bench.rows import CONFIG, MACHINE, failed_row, make_row, rows_over_sizes


@pytest.fixture
def report(tmp_path, capsys):
    """Returns the text on the terminal; files are in tmp_path."""

    def call(rows, **config):
        report_results(rows, {**CONFIG, **config}, MACHINE, tmp_path)
        return capsys.readouterr().out

    return call


def test_files_hold_all_results(report, tmp_path):
    rows = [*rows_over_sizes("softmax", lambda n: n**2 * 1e-8), *rows_over_sizes("slow", lambda n: n**2 * 3e-8)]
    text = report([*rows, failed_row()])
    assert {path.name for path in tmp_path.iterdir()} == {"bench.csv", "bench.json", "bench.md", "bench.html"}
    assert all(str(path) in text for path in tmp_path.iterdir())
    text = (tmp_path / "bench.md").read_text(encoding="utf-8")
    assert "\n| model | attention | res |" in text
    with (tmp_path / "bench.csv").open(encoding="utf-8") as file:
        first, *_, last = lines = list(csv.DictReader(file))
    assert len(lines) == 7
    assert [first[key] for key in ("model", "attention", "res", "tokens")] == ["vit_tiny", "softmax", "224", "197"]
    assert float(first["latency_ms"]) == pytest.approx(197**2 * 1e-5)
    assert (last["status"], last["latency_ms"]) == ("out of memory", "")
    assert "seconds" not in first
    content = json.loads((tmp_path / "bench.json").read_text(encoding="utf-8"), parse_constant=pytest.fail)
    assert (content["machine"], content["config"]["batch"]) == (MACHINE, 4)
    assert {"command", "packages", "git_commit"} <= set(content["environment"])
    assert content["rows"][0]["seconds"]["latency_ms"] == list(rows[0].runs["latency_ms"].seconds)
    assert content["rows"][-1]["status"] == "out of memory"
    softmax, slow = content["growth"]
    assert softmax["forward"]["value"] == pytest.approx(2)
    assert slow["overtakes"]["value"] is None, "infinity"


def test_the_terminal_shows_tables_and_machine(report):
    text = report([make_row("softmax"), make_row("additive")])
    for words in ("Size and memory", "Time", "Published results, not measured here", "arXiv:2012.12877"):
        assert words in text
    assert "Measured on Abacus, 2 threads of 4 CPUs, torch 2.0." in text
    assert "Scaling" not in text, "there is one size"


def test_with_a_budget_there_is_no_scaling_and_nothing_published(report, tmp_path):
    text = report(rows_over_sizes("softmax", lambda n: n), match="macs", to="vit_tiny")
    assert "Scaling" not in text
    assert "Published" not in text
    assert json.loads((tmp_path / "bench.json").read_text())["growth"] == []


@pytest.mark.parametrize(
    ("candidates", "quoted"),
    [
        (["model=vit_tiny", "attention=softmax"], True),
        (["model=timm", "model.name=[vit_tiny]"], True),
        (["model=vit_tiny", "model.depth=4"], False),
        (["++model.attention.qk_norm=true"], False),
    ],
)
def test_published_results_are_shown_for_unchanged_models_only(report, candidates, quoted):
    assert ("Published results" in report([make_row()], candidates=candidates)) is quoted


def test_without_results_there_is_no_page(report, tmp_path):
    assert "out of memory" in report([failed_row("softmax")])
    assert {path.name for path in tmp_path.iterdir()} == {"bench.csv", "bench.json", "bench.md"}


def test_the_page_is_self_contained_and_shows_all_charts_and_tables():
    rows = rows_over_sizes("softmax", lambda n: n**2 * 1e-8) + rows_over_sizes("linear", lambda n: n * 1e-5)
    charts = make_charts([_record(row) for row in rows], batch=4)
    page = render_page("Title & more", "On <this>", charts, make_tables(rows, [], [], CONFIG))
    assert "<h1>Title &amp; more</h1>" in page
    assert "On &lt;this&gt;" in page
    outside = re.sub(r"<script.*?</script>", "", page, flags=re.DOTALL)
    assert not re.findall(r'(?:src|href)="(?!#|data:)', outside)
    assert not re.findall(r"<script[^>]*\ssrc=", page)
    assert page.count("plotly.js v") == 1
    figures = json.loads(re.search(r'<script type="application/json" id="data-figures">(.*?)</script>', page)[1])
    keys = ["latency_ms", "train_ms", "saved_mib", "macs"]
    assert list(figures) == re.findall(r'<div class="plot" id="plot-([\w-]+)"', page) == keys
    assert page.count("<table>") == 2
    assert "<td>1.97 (1.91–2.03)</td>" in page
    assert '<td class="text">linear</td>' in page


def test_the_page_escapes_tables():
    page = render_page("", "", [], [Table(["x<y"], [["<script>"]], title="A<b>", note="1 < 2\n2 > 1")])
    for escaped in ("<h2>A&lt;b&gt;</h2>", ">x&lt;y</th>", ">&lt;script&gt;</td>", "1 &lt; 2"):
        assert escaped in page
