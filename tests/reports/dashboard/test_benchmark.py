from fvit.reports.bench.charts import Chart, Series
from fvit.reports.dashboard.benchmark import chart_table


def series(name, x, y):
    return Series(name, name, x, y, y, y)


def test_several_sizes_have_a_row_each_and_a_dash_where_a_candidate_failed():
    both = [series("a", [4, 16], [0.51234, 1234.5]), series("b", [4], [99.96])]
    table = chart_table(Chart("latency_ms", "Latency", "ms", "tokens", {4: "4\n32 px", 16: "16\n64 px"}, both))
    assert table.title == "Latency, ms"
    assert table.to_markdown().splitlines() == [
        "| tokens | a | b |",
        "| --- | ---: | ---: |",
        "| 4, 32 px | 0.512 | 100.0 |",
        "| 16, 64 px | 1,234 | – |",
    ]


def test_one_size_has_a_row_per_candidate():
    bars = [series("a", [0], [2.0]), series("c", [0], [30.0])]
    table = chart_table(Chart("macs", "MACs, 32 px", "G", None, {}, bars))
    assert (table.head, table.rows) == (["", "G"], [["a", "2.00"], ["c", "30.0"]])
