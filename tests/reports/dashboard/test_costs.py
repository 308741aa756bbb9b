from fvit.reports.bench.charts import Chart, Series
from fvit.reports.dashboard import costs
from fvit.reports.runs.costs import Benchmark

SIZES = {4: "4\n32 px", 16: "16\n64 px"}


def line(name, x, y):
    return Series(name, x, y, y, y)


def test_a_candidate_that_failed_at_a_size_has_a_dash_there():
    lines = [line("a", [4, 16], [0.51234, 1234.5]), line("b", [4], [99.96])]
    benchmark = Benchmark("2026: a,b", "", [Chart("latency_ms", "Latency", "ms", "tokens", SIZES, lines)])
    [(title, table)] = costs.tables(benchmark)
    assert title == "Latency, ms"
    assert table.splitlines() == [
        "| tokens | a | b |",
        "| --- | ---: | ---: |",
        "| 4, 32 px | 0.512 | 100 |",
        "| 16, 64 px | 1,234 | – |",
    ]


def test_one_size_has_a_line_a_candidate():
    bars = [line("a|b", [0], [2.0]), line("c", [0], [30.0])]
    benchmark = Benchmark("2026: a,c", "", [Chart("macs", "MACs, 32 px", "G", None, {}, bars)])
    [(_, table)] = costs.tables(benchmark)
    assert table.splitlines()[2:] == ["| a\\|b | 2 |", "| c | 30 |"]


def test_a_benchmark_goes_by_its_folder():
    assert costs.group(Benchmark("2026-01-02_03-04-05-abcd: model=a attention=b", "", [])) == "2026-01-02_03-04-05-abcd"
