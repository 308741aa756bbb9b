import csv
import io
import json
import random
import re
from pathlib import Path

import pytest
import torch
from rich.console import Console

from fvit.tinysaver import report
from fvit.tinysaver.cascade import Cascade


def cascade(images=200, tiny_macs=1_000_000, large_macs=10_000_000):
    rng = random.Random(0)
    confidence = [rng.uniform(0.1, 1) for _ in range(images)]
    tiny_right = [rng.random() < c for c in confidence]
    large_right = [rng.random() < 0.7 for _ in confidence]
    return Cascade(torch.tensor(confidence), torch.tensor(tiny_right), torch.tensor(large_right), tiny_macs, large_macs)


@pytest.fixture
def printed(monkeypatch):
    """The printed report, without a terminal."""

    def print_report(pair):
        console = Console(width=140, highlight=False, force_terminal=False, file=io.StringIO())
        for module in ("fvit.launch.console", "fvit.tinysaver.report"):
            monkeypatch.setattr(f"{module}.console", console)
        report.print_cascade(pair, Path("FOLDER"))
        return console.file.getvalue()

    return print_report


@pytest.fixture
def saved(tmp_path):
    report.save(cascade(), {key: tmp_path / f"{key}.ckpt" for key in ("large", "tiny")}, tmp_path)
    return tmp_path


def rows_of(text):
    """The cells of each row of numbers."""
    rows = (re.split(" {2,}", line.strip()) for line in text.splitlines() if "%" in line)
    return [row for row in rows if len(row) > 1]


def test_csv_contains_every_point(saved):
    with (saved / "cascade.csv").open() as file:
        rows = list(csv.DictReader(file))
    curve = cascade().curve
    assert len(rows) == len(curve) == 201
    for row, point in zip(rows, curve, strict=True):
        for name in ("threshold", "passed_on", "share", "right", "acc1", "macs"):
            assert float(row[name]) == getattr(point, name), name


def test_json_contains_the_named_points(saved):
    content = json.loads((saved / "cascade.json").read_text())
    pair = cascade()
    assert content["checkpoints"] == {"large": str(saved / "large.ckpt"), "tiny": str(saved / "tiny.ckpt")}
    assert content["images"] == 200
    assert content["large"] == {"acc1": pair.large.acc1, "macs": pair.large.macs}
    assert content["tiny"] == {"acc1": pair.tiny.acc1, "macs": pair.tiny.macs}
    for name, point in (("as_accurate", pair.as_accurate()), ("best", pair.best()), ("held_out", pair.held_out())):
        figures = {"acc1": point.acc1, "macs": point.macs, "share": point.share, "saved": pair.saved(point)}
        threshold = {} if name == "held_out" else {"threshold": point.threshold}
        assert content[name] == figures | threshold


def test_metrics_are_those_of_the_named_points():
    pair = cascade()
    metrics = report.metrics(pair)
    assert metrics["cascade/acc1"] == pair.as_accurate().acc1 >= metrics["cascade/large/acc1"]
    assert metrics["cascade/macs"] == pair.as_accurate().macs
    assert metrics["cascade/threshold"] == pair.as_accurate().threshold
    assert metrics["cascade/saved"] == pytest.approx(1 - metrics["cascade/macs"] / metrics["cascade/large/macs"])
    assert metrics["cascade/best/acc1"] == pair.best().acc1
    assert metrics["cascade/held_out/macs"] == pair.held_out().macs
    assert metrics["cascade/tiny/acc1"] == pair.tiny.acc1
    assert {type(value) for value in metrics.values()} == {float}


def test_table_has_the_curve_in_tenths_and_the_named_points(printed):
    pair = cascade()
    text = printed(pair)
    curve = [row for row in rows_of(text) if len(row) == 5]
    assert [row[1] for row in curve] == [f"{10 * step:.1f} %" for step in range(11)]
    for row in curve:
        point = pair.curve[round(float(row[1].split()[0]) / 100 * 200)]
        macs = f"{point.macs / 1e6:.3f} M"
        assert row[2:] == [f"{100 * point.acc1:.2f} %", macs, f"{100 * pair.saved(point):.1f} %"]
    assert [row[0] for row in rows_of(text) if len(row) == 6] == [
        "tiny alone",
        "large alone",
        "most accurate",
        "as accurate as large",
        "as accurate, held out",
    ]
    assert "\x1b" not in text
    assert "That is optimistic" in " ".join(text.split())
    assert "FOLDER/cascade.csv" in text
    assert "FOLDER/cascade.html" in text


def test_table_has_no_duplicate_rows(printed):
    half = torch.tensor([True, False])
    text = printed(Cascade(torch.tensor([0.5, 0.5]), half, half, 1_000_000, 10_000_000))
    assert len([row for row in rows_of(text) if len(row) == 5]) == 2


@pytest.mark.parametrize(
    ("threshold", "text"), [(None, "–"), (0.0, "0"), (2.0, "> 1"), (1.0, "1"), (0.69457626, "0.6945763")]
)
def test_thresholds_as_text(threshold, text):
    assert report.show_threshold(threshold) == text


@pytest.mark.parametrize(("large", "expected"), [(999_999_999, (1e6, "M")), (10**9, (1e9, "G"))])
def test_unit_suits_the_large_model(large, expected):
    assert report.unit(cascade(large_macs=large)) == expected


def traces(page):
    """The plot's data in the page."""
    figures = re.search(r'<script type="application/json" id="data-figures">(.*)</script>', page)[1]
    return json.loads(figures)["cascade"]["data"]


def test_plot_is_a_page_that_opens_offline(saved):
    page = (saved / "cascade.html").read_text()
    assert page.startswith("<!doctype html>")
    assert not re.search(r"<(script|link)[^>]*\b(src|href)=\"(?!data:)", page), "no external files"
    assert re.search(r"large: \S*large\.ckpt\ntiny: \S*tiny\.ckpt\n200 images", page)


def test_plot_shows_the_curve_and_the_named_points():
    pair = cascade()
    curve, chance, *points = traces(report.page(pair, {}))
    assert curve["x"] == [point.macs / 1e6 for point in pair.curve]
    assert curve["y"] == [100 * point.acc1 for point in pair.curve]
    assert chance["y"] == [100 * pair.tiny.acc1, 100 * pair.large.acc1]
    wanted = [pair.tiny, pair.large, pair.as_accurate(), pair.held_out(), pair.best()]
    assert [(trace["x"], trace["y"]) for trace in points] == [([p.macs / 1e6], [100 * p.acc1]) for p in wanted]


def test_long_curve_is_thinned_but_keeps_its_ends():
    pair = cascade(images=9001)
    assert len(pair.curve) > 8000
    x = traces(report.page(pair, {}))[0]["x"]
    assert 1000 < len(x) <= 2001
    assert (x[0], x[-1]) == (pair.curve[0].macs / 1e6, pair.curve[-1].macs / 1e6)
