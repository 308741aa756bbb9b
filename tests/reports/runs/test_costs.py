from fvit.reports.runs.costs import read_benchmarks
from tests.reports.runs.folders import write_benchmark


def test_a_benchmark_becomes_charts(tmp_path):
    write_benchmark(tmp_path / "2026")
    [found] = read_benchmarks([tmp_path / "2026" / "bench.json"])
    assert found.name == "2026: attention=additive,softmax model=vit_tiny"
    assert found.note.startswith("On Abacus, 2 threads of 4 CPUs, torch 2.9.0")
    latency, macs = found.charts
    assert (latency.key, latency.axis, macs.key) == ("latency_ms", "tokens", "macs")
    assert [series.name for series in latency.series] == ["vit_tiny additive", "vit_tiny softmax"]
    assert latency.series[0].x == [197, 577]
    assert latency.series[0].y == [394, 1154]
    assert latency.series[0].low[0] < 394 < latency.series[0].high[0]


def test_one_that_cannot_be_read_says_so(tmp_path):
    for name, content in (("a", "{"), ("b", "{}"), ("c", '{"rows": [{}], "config": {}}')):
        (tmp_path / name).mkdir()
        (tmp_path / name / "bench.json").write_text(content)
    found = read_benchmarks([tmp_path / name / "bench.json" for name in "abc"])
    assert [one.charts for one in found] == [[], [], []]
    assert all("is damaged or of another version" in one.note for one in found)
