import json

import pytest

from fvit.reports.bench.charts import charts, points, saved
from fvit.reports.bench.report import _plain
from tests.reports.bench.found import CONFIG, failed, law, row


def chart(rows, key):
    return {one.key: one for one in charts(points(rows), CONFIG)}[key]


def test_several_sizes_make_curves_over_the_tokens():
    rows = law("linear", lambda n: n * 1e-5)[::-1] + law("softmax", lambda n: n**2 * 1e-8)
    latency = chart(rows, "latency_ms")
    assert (latency.axis, latency.unit) == ("tokens", "ms")
    assert latency.ticks == {4097: "4,097\n1024 px", 577: "577\n384 px", 197: "197\n224 px"}
    linear, softmax = latency.series
    assert (linear.name, linear.x) == ("vit_tiny linear", [197, 577, 4097])
    assert linear.y == pytest.approx([1.97, 5.77, 40.97])
    assert linear.low == pytest.approx([0.97 * y for y in linear.y])
    assert linear.high == pytest.approx([1.03 * y for y in linear.y])
    assert softmax.y[0] == pytest.approx(197**2 * 1e-5)
    assert chart(rows, "macs").series[0].low == chart(rows, "macs").series[0].y, "no interval"


def test_models_without_tokens_are_drawn_over_pixels():
    rows = law("softmax", lambda n: n) + [row("native", res, model="resnet18") for res in (224, 384)]
    for found in rows[3:]:
        found.tokens = None
    latency = chart(rows, "latency_ms")
    assert latency.axis == "side of the image, px"
    assert [series.x for series in latency.series] == [[224, 384, 1024], [224, 384]]
    assert latency.ticks == {224: "224", 384: "384", 1024: "1024"}


def test_one_size_makes_bars_from_small_to_large():
    rows = [row("softmax", seconds=0.02), row("additive", seconds=0.01), row("additive", precision="bf16")]
    latency = chart(rows, "latency_ms")
    assert (latency.axis, latency.title) == (None, "Latency of one image, 224 px")
    assert [bar.name for bar in latency.series] == ["vit_tiny additive", "vit_tiny additive bf16", "vit_tiny softmax"]
    assert chart(rows, "params").unit == "M"


def test_parameters_make_no_curves():
    assert "params" not in {one.key for one in charts(points(law("softmax", lambda n: n)), CONFIG)}


def test_what_failed_is_left_out():
    rows = [row("softmax"), failed("sigmoid")]
    assert [bar.name for bar in chart(rows, "latency_ms").series] == ["vit_tiny softmax"]
    assert charts(points([failed()]), CONFIG) == []


def test_titles_tell_the_batch():
    assert chart([row()], "train_ms").title == "Training step, batch of 4, 224 px"


def test_what_was_saved_makes_the_same_charts():
    rows = law("linear", lambda n: n * 1e-5) + law("softmax", lambda n: n**2 * 1e-8, precision="bf16")
    plain = json.loads(json.dumps([_plain(found) for found in rows]))
    assert charts(saved(plain), CONFIG) == charts(points(rows), CONFIG)
