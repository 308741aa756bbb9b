import json
import re

import pytest

from fvit.reports.bench.charts import charts, points
from fvit.reports.bench.page import page
from fvit.reports.bench.tables import Table, tables
from tests.reports.bench.found import CONFIG, law, row


def plots(text):
    """Each plot's place, traces and layout, as they stand in the page."""
    figures = json.loads(re.search(r'<script type="application/json" id="data-figures">(.*?)</script>', text)[1])
    assert re.findall(r'<div class="plot" id="plot-([\w-]+)"', text) == list(figures)
    return [(name, figure["data"], figure["layout"]) for name, figure in figures.items()]


@pytest.fixture(scope="module")
def curves():
    rows = law("softmax", lambda n: n**2 * 1e-8) + law("linear", lambda n: n * 1e-5)
    return page("Title & more", "On <this>", charts(points(rows), CONFIG), tables(rows, [], [], CONFIG))


def test_the_page_needs_nothing_from_outside(curves):
    head = re.sub(r"<script.*?</script>", "", curves, flags=re.DOTALL)
    assert not re.findall(r'(?:src|href)="(?!#|data:)', head)
    assert curves.count("plotly.js v") == 1, "the library stands in it once"
    assert not re.findall(r"<script[^>]*\ssrc=", curves)


def test_curves_are_logarithmic_with_intervals(curves):
    found = {name: (traces, layout) for name, traces, layout in plots(curves)}
    assert set(found) == {"latency_ms", "train_ms", "saved_mib", "macs"}
    traces, layout = found["latency_ms"]
    assert layout["xaxis"]["type"] == layout["yaxis"]["type"] == "log"
    assert layout["xaxis"]["ticktext"] == ["197<br>224 px", "577<br>384 px", "4,097<br>1024 px"]
    assert [trace["name"] for trace in traces] == ["vit_tiny softmax", "vit_tiny linear"]
    assert traces[0]["line"]["color"] != traces[1]["line"]["color"]
    assert traces[0]["marker"]["symbol"] != traces[1]["marker"]["symbol"]
    assert traces[0]["error_y"]["visible"] is True
    traces, _ = found["macs"]
    assert traces[0]["error_y"]["visible"] is False


def test_an_axis_of_less_than_a_decade_is_not_held_to_1_2_and_5():
    def axis(cost):
        [*_, layout], *_ = plots(page("", "", charts(points(law("softmax", cost)), CONFIG), []))
        return layout["yaxis"]

    assert axis(lambda n: 1e-3 * n)["dtick"] == "D2"
    assert "dtick" not in axis(lambda n: 1e-3 * n**0.5)


def test_bars_are_drawn_for_one_size():
    rows = [row("softmax"), row("additive", seconds=0.005)]
    [name, traces, _], *_ = plots(page("", "", charts(points(rows), CONFIG), []))
    assert name == "latency_ms"
    assert [(trace["type"], trace["orientation"], trace["y"]) for trace in traces] == [
        ("bar", "h", ["vit_tiny additive"]),
        ("bar", "h", ["vit_tiny softmax"]),
    ]


def test_text_is_text(curves):
    assert "<h1>Title &amp; more</h1>" in curves
    assert "On &lt;this&gt;" in curves
    text = page("", "", [], [Table("A<b>", ["x<y"], [["<script>"]], "1 < 2\n2 > 1")])
    for escaped in ("<h2>A&lt;b&gt;</h2>", "<th>x&lt;y</th>", "<td>&lt;script&gt;</td>", "1 &lt; 2"):
        assert escaped in text


def test_tables_stand_in_it_whole(curves):
    assert curves.count("<table>") == 2
    assert "<td>1.97 (1.91–2.03)</td>" in curves
