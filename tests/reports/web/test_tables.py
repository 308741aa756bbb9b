import csv
import io

import pytest

from fvit.reports.web.tables import Cell, Table, three_digits, to_csv

TABLE = Table(["name", "a, %"], [[Cell("<b>|x", "<b>"), Cell("1.0 ± 0.5", 1.0)], [Cell("y"), Cell("–")]])


def test_markdown_is_aligned_and_escaped():
    assert TABLE.to_markdown().splitlines() == [
        "| name | a, % |",
        "| --- | ---: |",
        r"| <b>\|x | 1.0 ± 0.5 |",
        "| y | – |",
    ]


def test_html_has_values_to_sort_by():
    text = TABLE.to_html("board", lambda number: f"<td>{number}</td>")
    assert '<table class="sortable" id="board">' in text
    assert '<th class="text" aria-sort="none"><button type="button">name</button></th>' in text
    assert (
        '<tr data-row="0"><td>0</td><td class="text" data-v="&lt;b&gt;">&lt;b&gt;|x</td>'
        '<td data-v="1.0">1.0<span class="half"> ± 0.5</span></td></tr>' in text
    )
    assert '<tr data-row="1"><td>1</td><td class="text">y</td><td>–</td></tr>' in text


def test_html_without_a_name_is_plain():
    text = TABLE.to_html()
    assert "<table>\n<thead><tr>" in text
    assert '<th class="text">name</th><th>a, %</th>' in text


def test_csv_has_the_keys_of_all_records():
    lines = list(csv.DictReader(io.StringIO(to_csv([{"a": 1}, {"b": "x,y", "a": None}]))))
    assert lines == [{"a": "1", "b": ""}, {"a": "", "b": "x,y"}]


@pytest.mark.parametrize(
    ("value", "text"),
    [
        (0, "0"),
        (5.0, "5.00"),
        (4096.0, "4,096"),
        (0.00642, "0.00642"),
        (1.234, "1.23"),
        (23.46, "23.5"),
        (2345.6, "2,346"),
    ],
)
def test_three_digits(value, text):
    assert three_digits(value) == text
