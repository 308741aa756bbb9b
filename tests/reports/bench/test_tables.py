import math
from dataclasses import replace

import pytest

from fvit.cost.published import Published, published_for
from fvit.cost.timing import FEWEST, Timing
from fvit.cost.trends import Estimate, trends
from fvit.reports.bench.tables import make_tables
from tests.reports.bench.rows import CONFIG, TOKENS, failed_row, make_row, rows_over_sizes


def table(title, rows, trends=(), published=(), **config):
    [found] = [t for t in make_tables(rows, trends, published, CONFIG | config) if t.title.startswith(title)]
    return found


def scaling(rows):
    return table("Scaling", rows, trends(rows, "softmax"))


def test_values_have_units_and_intervals():
    rows = [make_row("softmax"), make_row("additive", seconds=0.005)]
    assert [one.title for one in make_tables(rows, [], [], CONFIG)] == ["Size and memory", "Time"]
    size = table("Size", rows)
    assert dict(zip(size.head, size.rows[0], strict=True)) == {
        "model": "vit_tiny",
        "attention": "softmax",
        "res": "224",
        "params, M": "5.70",
        "MACs, G": "1.26",
        "papers' convention, G": "1.08",
        "activations, MiB": "100",
    }
    assert size.words == {0, 1}
    time = table("Time", rows)
    assert time.head == ["model", "attention", "res", "latency, ms", "runs", "×", "training step, ms", "runs", "×"]
    assert time.rows[1][3:6] == ["5.00 (4.85–5.15)", "7", "0.50 (0.50–0.50)"]
    assert time.rows[1][6:] == ["10.0 (9.70–10.3)", "7", "0.50 (0.50–0.50)"]
    assert "×: time relative to softmax" in time.note
    assert "at batch size 4" in time.note


def test_the_ratio_is_to_the_baseline_of_the_same_model_and_conditions():
    rows = [
        make_row("softmax", seconds=0.01),
        make_row("softmax", 384, seconds=0.04),
        make_row("linear", 384, seconds=0.02),
        make_row("linear", seconds=0.02),
        make_row("linear", model="vit_small"),
        make_row("linear", precision="bf16"),
    ]
    time = table("Time", rows)
    column = time.head.index("×")
    assert [line[column] for line in time.rows] == ["1", "1", "0.50 (0.50–0.50)", "2.00 (2.00–2.00)", "–", "–"]


def ratio(ours, theirs):
    """The printed quotient of two candidates' runs of the same rounds."""
    rows = [make_row("softmax", timed=()), make_row("linear", timed=())]
    for row, seconds in zip(rows, (theirs, ours), strict=True):
        row.time("latency_ms", Timing(tuple(seconds)))
    time = table("Time", rows)
    return time.rows[1][time.head.index("×")]


def test_a_ratio_is_printed_only_if_its_interval_carries_it():
    rounds = (1.0, 3.0, 1.1, 5.0, 0.9, 1.0, 2.0)  # on a busy machine
    assert ratio([0.5 * t for t in rounds], rounds) == "0.50 (0.50–0.50)", "both are disturbed alike"
    assert ratio([0.02] * 5, [0.01] * 5) == "–", "fewer than 6 runs"
    noise = (0.97, 1.03, 1.0, 0.99, 1.01, 1.02, 0.98)
    assert ratio(noise, [1.0] * 7) == "≈ 1 (0.97–1.03)"
    assert ratio(rounds, reversed(rounds)) == "–", "from a third to three times as long"
    assert ratio((1.01, 1.26, 1.2, 4.3, 1.3, 1.1, 4.0), [1.0] * 7) == "–", "slower, but nobody knows by how much"


def test_without_the_baseline_there_is_no_ratio():
    time = table("Time", [make_row("linear"), make_row("additive")])
    assert "×" not in time.head
    assert "softmax" not in time.note


def test_conditions_have_a_column_unless_all_are_default():
    time = table("Time", [make_row(), make_row(precision="bf16"), make_row(compiled=True)])
    assert time.head[:5] == ["model", "attention", "res", "precision", "compiled"]
    assert [line[3:5] for line in time.rows] == [["float32", "False"], ["bf16", "False"], ["float32", "True"]]
    alike = [make_row(precision="bf16"), make_row("additive", precision="bf16")]
    assert table("Size", alike).head[2:5] == ["res", "precision", "params, M"]


def test_the_first_table_has_the_status_if_a_candidate_failed():
    rows = [make_row(), failed_row(status="images do not divide")]
    size = table("Size", rows)
    assert (size.head[-1], size.rows[0][-1], size.rows[1][-1]) == ("status", "ok", "images do not divide")
    assert size.rows[1][3:-1] == ["–"] * 4
    assert len(size.head) - 1 in size.words
    assert "status" not in table("Time", rows).head


def test_if_all_failed_there_is_a_status_table():
    rows = [failed_row("softmax")]
    tables = make_tables(rows, [], published_for({("vit_tiny", "softmax")})[:1], CONFIG)
    assert [one.title for one in tables] == ["Status", "Published results, not measured here"]
    assert tables[0].rows == [["vit_tiny", "softmax", "224", "out of memory"]]


def test_a_budget_has_columns():
    row = make_row("linear", embed_dim=216, depth=12, match_error=0.0581)
    size = table("Size", [row], match="macs", to="vit_small")
    line = dict(zip(size.head, size.rows[0], strict=True))
    assert (line["width"], line["depth"], line["budget error, %"]) == ("216", "12", "+5.8")
    assert "Budget error: macs relative to vit_small with softmax." in size.note


def test_scaling_has_exponents_with_intervals_and_crossovers():
    rows = rows_over_sizes("softmax", lambda n: n**2 * 1e-8) + rows_over_sizes("linear", lambda n: 700 * n * 1e-8)
    rows += rows_over_sizes("fast", lambda n: n * 1e-9) + rows_over_sizes("slow", lambda n: n**2 * 3e-8)
    found = scaling(rows)
    assert found.title == "Scaling with the number of tokens N, compared with softmax"
    lines = {line[0]: line[1:] for line in found.rows}
    assert lines["vit_tiny softmax"][0] == "7"
    assert lines["vit_tiny softmax"][1].startswith("2.00 (1.9")
    assert "peak training ∝ N^" not in found.head, "not measured"
    assert lines["vit_tiny softmax"][5:] == ["1.00", "–", "–"]
    assert lines["vit_tiny linear"][6].startswith("700 (6")
    assert lines["vit_tiny fast"][6:] == ["<197", "<197"]
    assert lines["vit_tiny slow"][6:] == [">4,097", ">4,097"]
    assert "pixels" not in found.note


@pytest.mark.parametrize(
    ("name", "estimate", "text"),
    [
        ("forward", Estimate(1.52, (1.4, 1.7)), "1.52 (1.40–1.70)"),
        ("forward", Estimate(1.52, None), "–"),
        ("forward", Estimate(-0.51, (-0.6, -0.4)), "–"),
        ("forward", Estimate(0.1, (-0.05, 0.2)), "–"),
        ("forward", Estimate(1.5, (1.0, 2.0)), "–"),
        ("overtakes", Estimate(700, (600, 900)), "700 (600 to 900)"),
        ("overtakes", Estimate(700, None), "–"),
        ("overtakes", Estimate(0, None), "–"),
        ("overtakes", Estimate(700, (0, 900)), "–"),
        ("overtakes", Estimate(700, (600, math.inf)), "–"),
        ("overtakes", Estimate(700, (300, 900)), "–"),
        ("overtakes", Estimate(math.inf, (900, math.inf)), "–"),
        ("overtakes", Estimate(0, (0, 0)), "<197"),
    ],
)
def test_an_estimate_is_printed_only_if_its_interval_carries_it(name, estimate, text):
    rows = rows_over_sizes("softmax", lambda n: n**2 * 1e-8)
    [trend] = trends(rows, "softmax")
    known = replace(trend, training=Estimate(1.0, (1.0, 1.0)), overtakes_in_training=Estimate(0, (0, 0)))
    found = table("Scaling", rows, [replace(known, **{name: estimate}), replace(known, forward=known.training)])
    heading = {"forward": "latency ∝ N^", "overtakes": "faster from N on"}[name]
    assert dict(zip(found.head, found.rows[0], strict=True)).get(heading, "–") == text


def test_a_step_that_three_runs_of_a_busy_machine_find_faster_on_larger_images_has_no_exponent():
    rows = [make_row("softmax", res, timed=()) for res in TOKENS]
    for row, seconds in zip(rows, (0.9, 0.4, 0.2), strict=True):
        row.time("train_ms", Timing((seconds, 1.1 * seconds, 3 * seconds)))
    found = scaling(rows)
    assert "training ∝ N^" not in found.head
    assert found.rows[0][1] == "3"


def test_scaling_of_memory():
    found = scaling([make_row("softmax", res, train_peak_mib=n / 4, saved_mib=n / 2) for res, n in TOKENS.items()])
    line = dict(zip(found.head, found.rows[0], strict=True))
    assert (line["activations ∝ N^"], line["peak training ∝ N^"]) == ("1.00", "1.00")


def test_scaling_with_pixels_says_so():
    rows = rows_over_sizes("native", lambda n: n**2 * 1e-8, model="resnet18")
    for row in rows:
        row.tokens = None
    found = scaling(rows)
    assert found.rows[0][0] == "resnet18 native, in pixels"
    assert "In pixels: N counts the pixels" in found.note


def test_few_runs_have_no_interval_and_the_notes_say_how_many_it_takes():
    row = make_row("softmax", timed=())
    row.time("latency_ms", Timing((0.01, 0.02, 0.03)))
    time = table("Time", [row])
    assert time.rows[0][3:5] == ["20.0", "3"]
    assert f"given at least {FEWEST} runs" in time.note
    assert f"at least {FEWEST} runs" in scaling(rows_over_sizes("softmax", lambda n: n)).note


def test_published_results_are_quoted_verbatim():
    one = Published("DeiT-Ti", "vit_tiny", "softmax", 224, "5", "", "2536.5", "V100-16GB", "72.2", "DeiT")
    found = table("Published", [make_row()], published=[one, one])
    assert found.rows[0] == ["DeiT-Ti", "vit_tiny softmax", "224", "5", "–", "2536.5", "V100-16GB", "72.2", "DeiT"]
    assert found.note.count("arXiv:2012.12877") == 1
