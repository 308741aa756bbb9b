import math
from dataclasses import replace

import pytest

from fvit.cost.published import Published, published_for
from fvit.cost.timing import FEWEST, Timing
from fvit.cost.trends import Estimate, trends
from fvit.reports.bench.tables import _three, tables
from tests.reports.bench.found import CONFIG, TOKENS, failed, law, row


def table(found, title):
    [one] = [one for one in found if one.title.startswith(title)]
    return one


def cells(found, title, number):
    one = table(found, title)
    return dict(zip(one.head, one.rows[number], strict=True))


def test_figures_stand_under_their_heads_with_units_and_intervals():
    found = tables([row("softmax"), row("additive", seconds=0.005)], [], [], CONFIG)
    assert [one.title for one in found] == ["Size and memory", "Time"]
    assert cells(found, "Size", 0) == {
        "model": "vit_tiny",
        "attention": "softmax",
        "res": "224",
        "params, M": "5.70",
        "MACs, G": "1.26",
        "paper's way, G": "1.08",
        "saved, MiB": "100",
    }
    timed = table(found, "Time")
    assert timed.head == ["model", "attention", "res", "latency, ms", "×", "training step, ms", "×"]
    assert timed.rows[1][3:] == ["5.00 (4.85–5.15)", "0.50", "10.0 (9.70–10.3)", "0.50"]
    assert "×: as many times as long as with softmax" in timed.note
    assert "on a batch of 4" in timed.note


def test_the_ratio_is_to_the_baseline_of_the_same_model_and_conditions():
    rows = [
        row("softmax", seconds=0.01),
        row("softmax", 384, seconds=0.04),
        row("linear", 384, seconds=0.02),
        row("linear", seconds=0.02),
        row("linear", model="vit_small"),
        row("linear", precision="bf16"),
    ]
    timed = table(tables(rows, [], [], CONFIG), "Time")
    place = timed.head.index("×")
    assert [line[place] for line in timed.rows] == ["1.00", "1.00", "0.50", "2.00", "–", "–"]


def test_without_the_baseline_there_is_no_ratio():
    found = tables([row("linear"), row("additive")], [], [], CONFIG)
    assert "×" not in table(found, "Time").head
    assert "softmax" not in table(found, "Time").note


def test_what_varies_has_a_column():
    found = tables([row(), row(precision="bf16"), row(compiled=True)], [], [], CONFIG)
    assert table(found, "Time").head[:5] == ["model", "attention", "res", "precision", "compiled"]
    assert [line[3:5] for line in table(found, "Time").rows] == [
        ["float32", "False"],
        ["bf16", "False"],
        ["float32", "True"],
    ]


def test_what_is_unusual_has_a_column_even_where_it_does_not_vary():
    found = tables([row(precision="bf16"), row("additive", precision="bf16")], [], [], CONFIG)
    assert table(found, "Size and memory").head[2:5] == ["res", "precision", "params, M"]
    assert table(tables([row(), row("additive")], [], [], CONFIG), "Time").head[2:4] == ["res", "latency, ms"]


def test_a_failure_is_told_once():
    found = tables([row(), failed(status="images do not divide")], [], [], CONFIG)
    size, time = found
    assert (size.head[-1], size.rows[0][-1], size.rows[1][-1]) == ("status", "ok", "images do not divide")
    assert size.rows[1][3:-1] == ["–"] * 4
    assert "status" not in time.head


def test_where_all_have_failed_a_table_says_so():
    published = published_for({("vit_tiny", "softmax")})[:1]
    found = tables([failed("softmax")], [], published, CONFIG)
    assert [one.title for one in found] == ["What became of it", "Published by others, not measured here"]
    assert found[0].rows == [["vit_tiny", "softmax", "224", "out of memory"]]


def test_a_budget_has_columns():
    matched = row("linear", embed_dim=216, depth=12, match_error=0.0581)
    found = tables([matched], [], [], {**CONFIG, "match": "macs", "to": "vit_small"})
    line = cells(found, "Size", 0)
    assert (line["width"], line["depth"], line["off by, %"]) == ("216", "12", "+5.8")
    assert "Off by: macs, beside those of vit_small with softmax." in found[0].note


def test_growth_is_told_with_its_intervals_and_its_ends():
    rows = law("softmax", lambda n: n**2 * 1e-8) + law("linear", lambda n: 700 * n * 1e-8)
    rows += law("fast", lambda n: n * 1e-9) + law("slow", lambda n: n**2 * 3e-8)
    found = table(tables(rows, trends(rows, "softmax"), [], CONFIG), "Growth")
    assert found.title == "Growth with the tokens N, beside softmax"
    lines = {line[0]: line[1:] for line in found.rows}
    assert lines["vit_tiny softmax"][0].startswith("2.00 (1.9")
    assert "training peak ∝ N^" not in found.head, "nobody measured it"
    assert lines["vit_tiny softmax"][4:] == ["1.00", "–", "–"]
    assert lines["vit_tiny linear"][5].startswith("700 (6")
    assert lines["vit_tiny fast"][5:] == ["<197", "<197"]
    assert lines["vit_tiny slow"][5:] == [">4,097", ">4,097"]
    assert "pixels" not in found.note


def test_growth_of_memory_is_told():
    rows = [row("softmax", res, train_peak_mib=n / 4, saved_mib=n / 2) for res, n in TOKENS.items()]
    line = cells(tables(rows, trends(rows, "softmax"), [], CONFIG), "Growth", 0)
    assert (line["saved ∝ N^"], line["training peak ∝ N^"]) == ("1.00", "1.00")


def test_growth_with_pixels_says_so():
    rows = law("native", lambda n: n**2 * 1e-8, model="resnet18")
    for found in rows:
        found.tokens = None
    found = table(tables(rows, trends(rows, "softmax"), [], CONFIG), "Growth")
    assert found.rows[0][0] == "resnet18 native, in pixels"
    assert "In pixels: N counts those of an image" in found.note


def test_fewer_runs_than_an_interval_takes_have_none_and_the_note_says_how_many_it_takes():
    few = row("softmax")
    few.values = {"params": 1.0}
    few.time("latency_ms", Timing((0.01, 0.02, 0.03)))
    found = table(tables([few], [], [], CONFIG), "Time")
    assert found.rows[0][3] == "20.0"
    assert f"for which it takes {FEWEST} runs" in found.note
    rows = law("softmax", lambda n: n)
    found = table(tables(rows, trends(rows, "softmax"), [], CONFIG), "Growth")
    assert f"for which it takes {FEWEST} runs" in found.note


def test_an_open_interval_is_told():
    rows = law("softmax", lambda n: n**2 * 1e-8) + law("linear", lambda n: 700 * n * 1e-8)
    trend = replace(trends(rows, "softmax")[1], overtakes=Estimate(1234.5, (0.0, math.inf)))
    assert table(tables(rows, [trend], [], CONFIG), "Growth").rows[0][6] == "1,234 (<197 to >4,097)"


def test_what_others_printed_is_quoted_as_printed():
    figure = Published("DeiT-Ti", "vit_tiny", "softmax", 224, "5", "", "2536.5", "V100-16GB", "72.2", "DeiT")
    found = table(tables([row()], [], [figure, figure], CONFIG), "Published by others, not measured here")
    assert found.rows[0] == ["DeiT-Ti", "vit_tiny softmax", "224", "5", "–", "2536.5", "V100-16GB", "72.2", "DeiT"]
    assert found.note.count("arXiv:2012.12877") == 1


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
def test_three_digits_count(value, text):
    assert _three(value) == text
