import pytest

from fvit.reports.bench.charts import attentions, draw_charts, make_charts, read_benchmark
from fvit.reports.bench.results import _record
from fvit.reports.web.colours import Palette
from tests.reports.bench.rows import failed_row, make_row, rows_over_sizes
from tests.reports.runs.folders import write_benchmark


def charts_of(rows):
    return {chart.key: chart for chart in make_charts([_record(row) for row in rows], batch=4)}


def figure_of(chart):
    return chart.figure(Palette(attentions([chart])))


@pytest.fixture
def two_curves():
    linear = rows_over_sizes("linear", lambda n: n * 1e-5)[::-1]
    return charts_of(linear + rows_over_sizes("softmax", lambda n: n**2 * 1e-8))


def test_several_sizes_make_curves_over_tokens(two_curves):
    latency = two_curves["latency_ms"]
    assert (latency.axis, latency.unit) == ("tokens", "ms")
    assert latency.ticks == {4097: "4,097\n1024 px", 577: "577\n384 px", 197: "197\n224 px"}
    linear, softmax = latency.series
    assert (linear.name, linear.x) == ("vit_tiny linear", [197, 577, 4097])
    assert linear.y == pytest.approx([1.97, 5.77, 40.97])
    assert linear.low == pytest.approx([0.97 * y for y in linear.y])
    assert linear.high == pytest.approx([1.03 * y for y in linear.y])
    assert softmax.y[0] == pytest.approx(197**2 * 1e-5)
    assert two_curves["macs"].series[0].low == two_curves["macs"].series[0].y, "no interval"
    assert "params" not in two_curves, "they hardly depend on the size"


def test_curves_are_log_log_with_error_bars(two_curves):
    figure = figure_of(two_curves["latency_ms"])
    linear, softmax = figure["data"]
    assert figure["layout"]["xaxis"]["type"] == figure["layout"]["yaxis"]["type"] == "log"
    assert figure["layout"]["xaxis"]["ticktext"] == ["197<br>224 px", "577<br>384 px", "4,097<br>1024 px"]
    assert (linear["x"], linear["name"]) == ([197, 577, 4097], "vit_tiny linear")
    assert linear["line"]["color"] != softmax["line"]["color"]
    assert linear["marker"]["symbol"] != softmax["marker"]["symbol"]
    assert linear["error_y"]["visible"] is True
    for side in ("array", "arrayminus"):
        assert linear["error_y"][side] == pytest.approx([0.03 * y for y in linear["y"]])
    assert figure_of(two_curves["macs"])["data"][0]["error_y"]["visible"] is False


def test_models_with_one_mechanism_share_its_colour_but_not_its_line(two_curves):
    rows = [
        make_row(attention, res, model=model)
        for res in (224, 384)
        for model in ("vit_tiny", "vit_small")
        for attention in ("linear form=a", "softmax")
    ]
    tiny, softmax, small, _ = figure_of(charts_of(rows)["latency_ms"])["data"]
    assert tiny["line"]["color"] == small["line"]["color"] != softmax["line"]["color"]
    assert tiny["line"]["dash"] != small["line"]["dash"]


def test_plotly_chooses_the_ticks_within_a_decade():
    def axis(seconds_of):
        return figure_of(charts_of(rows_over_sizes("softmax", seconds_of))["latency_ms"])["layout"]["yaxis"]

    assert axis(lambda n: 1e-3 * n)["dtick"] == "D2"
    assert "dtick" not in axis(lambda n: 1e-3 * n**0.5)


def test_models_without_tokens_make_curves_over_pixels():
    rows = rows_over_sizes("softmax", lambda n: n)
    rows += [make_row("native", res, model="resnet18") for res in (224, 384)]
    for row in rows[3:]:
        row.tokens = None
    latency = charts_of(rows)["latency_ms"]
    assert latency.axis == "image size, px"
    assert [series.x for series in latency.series] == [[224, 384, 1024], [224, 384]]
    assert latency.ticks == {224: "224", 384: "384", 1024: "1024"}


def test_one_size_makes_sorted_bars():
    rows = [make_row("softmax", seconds=0.02), make_row("additive"), make_row("additive", precision="bf16")]
    charts = charts_of(rows)
    latency = charts["latency_ms"]
    assert (latency.axis, latency.title) == (None, "Latency at batch size 1, 224 px")
    names = ["vit_tiny additive", "vit_tiny additive bf16", "vit_tiny softmax"]
    assert [bar.name for bar in latency.series] == names
    traces = figure_of(latency)["data"]
    assert [(trace["type"], trace["orientation"], trace["y"]) for trace in traces] == [("bar", "h", [n]) for n in names]
    assert traces[-1]["x"] == pytest.approx([20])
    additive, bf16, softmax = (trace["marker"]["color"] for trace in traces)
    assert additive == bf16 != softmax
    assert charts["params"].unit == "M"
    assert charts["train_ms"].title == "Training step at batch size 4, 224 px"


def test_failed_candidates_are_left_out():
    charts = charts_of([make_row("softmax"), failed_row("sigmoid")])
    assert [bar.name for bar in charts["latency_ms"].series] == ["vit_tiny softmax"]
    assert charts_of([failed_row()]) == {}


def test_charts_are_drawn_under_a_prefix():
    figures, charts = {"other": {}}, list(charts_of([make_row()]).values())[:1]
    text = draw_charts(charts, figures, Palette(attentions(charts)), "bench-1-")
    assert list(figures) == ["other", "bench-1-latency_ms"]
    assert 'id="plot-bench-1-latency_ms"' in text


def test_a_saved_benchmark_is_read(tmp_path):
    write_benchmark(tmp_path / "2026")
    benchmark = read_benchmark(tmp_path / "2026" / "bench.json")
    assert benchmark.label == "2026: attention=additive,softmax model=vit_tiny"
    assert benchmark.note.startswith("Measured on Abacus, 2 threads of 4 CPUs, torch 2.9.0")
    latency, macs = benchmark.charts
    assert (latency.key, latency.axis, macs.key) == ("latency_ms", "tokens", "macs")
    assert [series.name for series in latency.series] == ["vit_tiny additive", "vit_tiny softmax"]
    additive = latency.series[0]
    assert (additive.x, additive.y) == ([197, 577], [394, 1154])
    assert additive.low[0] < 394 < additive.high[0]


@pytest.mark.parametrize("content", ["{", "{}", '{"rows": [{}], "config": {"batch": 4}}'])
def test_an_unreadable_benchmark_gives_the_reason(tmp_path, content):
    (tmp_path / "bench.json").write_text(content)
    benchmark = read_benchmark(tmp_path / "bench.json")
    assert (benchmark.charts, benchmark.label) == ([], tmp_path.name)
    assert "is damaged or from another version" in benchmark.note
