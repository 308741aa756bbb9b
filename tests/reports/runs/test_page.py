import json
import re

import pytest

from fvit.reports.runs.costs import read_benchmarks
from fvit.reports.runs.gather import find_benchmarks, gather
from fvit.reports.runs.groups import group
from fvit.reports.runs.page import page as make_page
from fvit.reports.runs.tables import leaderboard
from tests.browser import chromium, draw_all, opened
from tests.reports.runs.folders import write_benchmark, write_run, write_sweep


def build(folder, benchmarks=()):
    runs = gather([folder])
    groups = group(runs, "softmax")
    return make_page(str(folder.name), runs, groups, leaderboard(groups, "softmax"), benchmarks)


@pytest.fixture(scope="module")
def browser():
    with chromium() as found:
        yield found


@pytest.fixture(scope="module")
def report(tmp_path_factory):
    """Three mechanisms at two learning rates, some failed and running jobs, and a benchmark."""
    folder = tmp_path_factory.mktemp("report")
    for number, lr in enumerate((0.001, 0.002)):
        options = dict(overrides=[f"optimizer.lr={lr}"], optimizer__lr=lr)
        write_sweep(folder / "logs" / str(number), ["additive", "softmax", "linear"], **options)
    failed = write_run(folder / "logs" / "failed", "linear", status="failed", error="a <b>loss</b>", optimizer__lr=9)
    (failed / "train.log").write_text("the last line </script>")
    write_run(folder / "logs" / "running", "performer", seed=7, status="running", curve=[0.1, 0.2])
    write_benchmark(folder / "bench" / "one")
    path = folder / "report.html"
    path.write_text(build(folder / "logs", read_benchmarks(find_benchmarks([folder / "bench"]))), encoding="utf-8")
    return path


def cells(page, column, table="leaderboard"):
    rows = page.locator(f"#{table} tbody tr:not([hidden])")
    return [rows.nth(i).locator("td").nth(column).inner_text() for i in range(rows.count())]


@pytest.mark.parametrize("scheme", ["light", "dark"])
@pytest.mark.parametrize("width", [390, 1280])
def test_it_renders_without_errors_requests_or_overflow(browser, report, width, scheme):
    with opened(browser, report, width, scheme) as page:
        assert draw_all(page) == 9  # curves, four costs, two views of settings, two charts of the benchmark
        assert page.evaluate("document.documentElement.scrollWidth") == width
        assert page.evaluate("[...document.querySelectorAll('.plot')].every((p) => p.scrollWidth <= p.clientWidth)")
        ink, paper = page.evaluate(
            "[getComputedStyle(document.body).color, getComputedStyle(document.body).backgroundColor]"
        )
        bright = [sum(map(int, re.findall(r"\d+", colour)[:3])) for colour in (ink, paper)]
        assert (bright[0] > bright[1]) == (scheme == "dark")
        told = page.evaluate(TEXTS)
        for selector in (".note", ".half", ".status.failed", ".status.running", "th button", "nav a", ".xtick text"):
            assert any(selector in matched for _, matched, _, _ in told), selector
        assert [one for one in told if contrast(*one[2:]) < 4.5] == []
        for line in page.locator("#plot-curves .scatterlayer .js-line").all():
            assert contrast(line.evaluate("(line) => getComputedStyle(line).stroke"), paper) > 2.1


# Each text that is seen, which selectors it matches, its colour and that of what lies behind it.
TEXTS = """() => {
  const selectors = [".note", ".half", ".status.failed", ".status.running", "th button", "nav a", ".xtick text"];
  const behind = (element) => {
    const { backgroundColor } = getComputedStyle(element);
    return backgroundColor === "rgba(0, 0, 0, 0)" ? behind(element.parentElement) : backgroundColor;
  };
  const own = (element) => [...element.childNodes].filter((node) => node.nodeType === Node.TEXT_NODE)
    .map((node) => node.textContent.trim()).join("");
  const texts = [...document.body.querySelectorAll(":not(script, style)")].filter((e) => own(e) && e.checkVisibility());
  const told = texts.map((element) => {
    const { color, fill } = getComputedStyle(element);
    return [own(element), selectors.filter((selector) => element.matches(selector)),
      element instanceof SVGElement ? fill : color, behind(element)];
  });
  const boxes = [...document.querySelectorAll("input[placeholder]")];
  return told.concat(boxes.map((box) =>
    [box.placeholder, ["placeholder"], getComputedStyle(box, "::placeholder").color, behind(box)]));
}"""


def contrast(one, other):
    """WCAG's ratio of two colours."""

    def luminance(colour):
        parts = [int(part) / 255 for part in re.findall(r"\d+", colour)[:3]]
        linear = [part / 12.92 if part <= 0.04045 else ((part + 0.055) / 1.055) ** 2.4 for part in parts]
        return 0.2126 * linear[0] + 0.7152 * linear[1] + 0.0722 * linear[2]

    dark, light = sorted((luminance(one), luminance(other)))
    return (light + 0.05) / (dark + 0.05)


def test_plots_follow_when_the_page_turns_dark(browser, report):
    with opened(browser, report) as page:
        draw_all(page)
        stroke = "document.querySelector('#plot-curves .scatterlayer .trace:last-child .js-line').style.stroke"
        before = page.evaluate(stroke)
        page.emulate_media(color_scheme="dark")
        page.wait_for_function(f"{stroke} !== {json.dumps(before)}")


def test_tables_are_sorted_by_their_values(browser, report):
    with opened(browser, report) as page:
        assert cells(page, 0) == [
            "additive",
            "additive",
            "softmax",
            "softmax",
            "linear",
            "linear",
            "linear",
            "performer",
        ]
        board = page.locator("#leaderboard")
        head = board.get_by_role("columnheader", name="accuracy, %")
        head.get_by_role("button").click()
        assert head.get_attribute("aria-sort") == "descending"
        assert cells(page, 3)[0].startswith("93.00")
        head.get_by_role("button").click()
        assert head.get_attribute("aria-sort") == "ascending"
        found = cells(page, 3)
        assert found[0].startswith("60.00")
        assert found[-2:] == ["–", "–"], "what is missing stays last"
        board.get_by_role("columnheader", name="attention").get_by_role("button").click()
        assert cells(page, 0) == sorted(cells(page, 0))
        assert head.get_attribute("aria-sort") == "none"


def test_tables_and_curves_are_filtered(browser, report):
    with opened(browser, report) as page:
        draw_all(page)
        box = page.locator("[data-filter=leaderboard]")
        box.fill("lr=0.001 additive")
        assert cells(page, 0) == ["additive"]
        assert page.locator("[data-count=leaderboard]").inner_text() == "1 of 8 rows"
        page.wait_for_function("document.querySelectorAll('#plot-curves .scatterlayer .trace').length === 2")
        box.fill("nothing of that kind")
        assert cells(page, 0) == []
        box.fill("")
        assert len(cells(page, 0)) == 8
        page.locator("[data-filter=runs-table]").fill("failed")
        assert cells(page, 3, "runs-table") == ["failed"]


def test_curves_can_be_of_losses(browser, report):
    with opened(browser, report) as page:
        draw_all(page)
        title = "document.querySelector('#plot-curves .ytitle')?.textContent"
        assert page.evaluate(title) == "Validation accuracy, %"
        page.get_by_label("Training loss").check()
        page.wait_for_function(f"{title} === 'Training loss'")
        # Seven rows have a curve: bands for the six of three seeds, none for the single one that runs.
        assert page.locator("#plot-curves .scatterlayer .trace").count() == 6 * 2 + 1


def test_pointing_at_a_category_tells_its_name(browser, tmp_path):
    for name, accuracy in (("none", 0.5), ("deit", 0.6)):
        options = dict(overrides=[f"augment={name}"], choices={"augment": name}, data__augment={"x": name})
        write_run(tmp_path / "logs" / name, accuracy=accuracy, **options)
    (tmp_path / "report.html").write_text(build(tmp_path / "logs"), encoding="utf-8")
    with opened(browser, tmp_path / "report.html") as page:
        draw_all(page)
        page.evaluate("Plotly.Fx.hover('plot-setting-0', [{ curveNumber: 0, pointNumber: 0 }])")
        told = page.locator("#plot-setting-0 .hovertext .nums").text_content()
        assert told == "additive augment=deit60.00 % at deit"


def test_two_configurations_are_compared(browser, report):
    with opened(browser, report) as page:
        rows = page.locator("#runs-table tbody tr")
        names = cells(page, 1, "runs-table")
        rows.nth(names.index("0/0")).get_by_title("Compare as A").click()
        rows.nth(names.index("1/3")).get_by_title("Compare as B").click()
        lines = [line.locator("td").all_inner_texts() for line in page.locator("#diff tr").all()]
        found = {line[0]: tuple(line[1:]) for line in lines if line}
        assert found.pop("output_dir")[0].endswith("/logs/0/0")
        assert found == {
            "title": ("vit_atto, additive", "vit_atto, softmax"),
            "model.attention.name": ("additive", "softmax"),
            "optimizer.lr": ("0.001", "0.002"),
        }
        assert page.locator("#side-A option:checked").inner_text() == "0/0"
        page.get_by_text("The whole configuration of A").click()
        assert "optimizer.lr\t0.001" in page.locator("#config").inner_text()


def test_failures_tell_their_last_lines(browser, report):
    with opened(browser, report) as page:
        section = page.locator("#unfinished")
        assert section.locator(".status").all_inner_texts() == ["failed", "running"]
        assert "a <b>loss</b>" in section.inner_text()
        section.get_by_text("Last lines of its log").click()
        assert "the last line </script>" in section.inner_text()


def test_a_page_of_one_run_and_one_without_any(browser, tmp_path):
    write_run(tmp_path / "logs" / "a", accuracy=0.5, curve=[0.5])
    (tmp_path / "one.html").write_text(build(tmp_path / "logs"), encoding="utf-8")
    with opened(browser, tmp_path / "one.html") as page:
        assert draw_all(page) == 5
        assert cells(page, 2) == ["50.00"]
        assert "±" not in page.locator("#leaderboard").inner_text()
        assert page.locator("#plot-curves .scatterlayer .trace").count() == 1, "no band"
    write_benchmark(tmp_path / "bench")
    content = make_page("bench", [], [], leaderboard([], "softmax"), read_benchmarks(find_benchmarks([tmp_path])))
    (tmp_path / "none.html").write_text(content, encoding="utf-8")
    with opened(browser, tmp_path / "none.html") as page:
        assert draw_all(page) == 2


def test_everything_stands_inside(report):
    text = report.read_text(encoding="utf-8")
    assert text.count("plotly.js v") == 1
    assert not re.findall(
        r"<(?:script|img|link|iframe)[^>]*(?:src|href)=\"(?!data:)",
        re.sub(r"<script>.*?</script>", "", text, flags=re.DOTALL),
    )


@pytest.mark.slow
def test_500_runs_open_within_3_seconds(browser, tmp_path):
    """Processor time of the page's thread until the first plot stands: the clock's depends on what else runs."""
    for number in range(500):
        kind, seed = divmod(number, 5)
        attention, lr = divmod(kind, 4)
        curve = [1 - 0.99**epoch for epoch in range(100)]
        options = dict(overrides=[f"optimizer.lr={lr}"], optimizer__lr=lr, curve=curve)
        write_run(tmp_path / "logs" / str(number), f"mechanism{attention}", seed, 0.5 + number / 1000, **options)
    (tmp_path / "report.html").write_text(build(tmp_path / "logs"), encoding="utf-8")
    with opened(browser, tmp_path / "report.html") as page:
        devtools = page.context.new_cdp_session(page)
        devtools.send("Performance.enable", {"timeDomain": "threadTicks"})
        page.reload()
        page.locator("#plot-curves").scroll_into_view_if_needed()
        page.locator("#plot-curves .main-svg").first.wait_for()
        figures = {item["name"]: item["value"] for item in devtools.send("Performance.getMetrics")["metrics"]}
        assert len(cells(page, 0)) == 100
    assert 0.05 < figures["TaskDuration"] < 3
