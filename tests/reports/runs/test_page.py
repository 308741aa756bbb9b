import json
import re

import pytest

from fvit.reports.bench.charts import read_benchmark
from fvit.reports.runs.collect import collect_runs
from fvit.reports.runs.groups import rank_runs
from fvit.reports.runs.page import compact_configs, render_report
from tests.browser import chromium, draw, draw_all, opened
from tests.reports.runs.folders import write_benchmark, write_lived_in, write_lr_run, write_run, write_sweep
from tests.reports.runs.legibility import VISIBLE_TEXTS, contrast

# Text that must be legible in light and dark.
SELECTORS = [".note", ".half", ".status.failed", ".status.running", "th button", "nav a", ".xtick text"]


def write_report(folder, benchmarks=()):
    runs = collect_runs([folder / "logs"])
    page = render_report("logs", runs, rank_runs(runs, "softmax"), "softmax", list(map(read_benchmark, benchmarks)))
    (folder / "report.html").write_text(page, encoding="utf-8")
    return folder / "report.html"


@pytest.fixture(scope="module")
def browser():
    with chromium() as found:
        yield found


@pytest.fixture(scope="module")
def report(tmp_path_factory):
    """Three mechanisms at two learning rates, a failed and a running job, and a benchmark."""
    folder = tmp_path_factory.mktemp("report")
    for number, lr in enumerate((0.001, 0.002)):
        options = dict(overrides=[f"optimizer.lr={lr}"], optimizer__lr=lr)
        write_sweep(folder / "logs" / str(number), ["additive", "softmax", "linear"], **options)
    failed = write_run(folder / "logs" / "failed", "linear", status="failed", error="a <b>loss</b>", optimizer__lr=9)
    (failed / "train.log").write_text("the last line </script>")
    write_run(folder / "logs" / "running", "performer", seed=7, status="running", curve=[0.1, 0.2])
    write_benchmark(folder / "bench" / "one")
    return write_report(folder, [folder / "bench" / "one" / "bench.json"])


def open_parallel(page):
    page.get_by_text("All settings in parallel coordinates").click()


def cells(page, column, table="leaderboard-0-0"):
    rows = page.locator(f"#{table} tbody tr:not([hidden])")
    return [rows.nth(i).locator("td").nth(column).inner_text() for i in range(rows.count())]


@pytest.mark.slow
@pytest.mark.parametrize(("width", "scheme"), [(390, "dark"), (1280, "light")])
def test_the_page_fits_and_is_legible(browser, report, width, scheme):
    with opened(browser, report, width, scheme) as page:
        open_parallel(page)
        assert draw_all(page) == 9  # curves, four costs, two of the settings, two of the benchmark
        assert page.locator("#plot-parallel-0 canvas").count() > 0
        assert page.evaluate("document.documentElement.scrollWidth") == width
        assert page.evaluate("[...document.querySelectorAll('.plot')].every((p) => p.scrollWidth <= p.clientWidth)")
        ink, paper = page.evaluate(
            "[getComputedStyle(document.body).color, getComputedStyle(document.body).backgroundColor]"
        )
        ink_brightness, paper_brightness = (sum(map(int, re.findall(r"\d+", colour)[:3])) for colour in (ink, paper))
        assert (ink_brightness > paper_brightness) == (scheme == "dark")
        texts = page.evaluate(VISIBLE_TEXTS, SELECTORS)
        for selector in SELECTORS:
            assert any(selector in matched for _, matched, _, _ in texts), selector
        assert [text for text in texts if contrast(*text[2:]) < 4.5] == []
        for line in page.locator("#plot-curves-0 .scatterlayer .js-line").all():
            assert contrast(line.evaluate("(line) => getComputedStyle(line).stroke"), paper) > 2.1


@pytest.mark.slow
def test_plots_follow_the_page_into_dark_mode(browser, report):
    with opened(browser, report) as page:
        draw(page.locator("#plot-curves-0"))
        open_parallel(page)
        draw(page.locator("#plot-parallel-0"))
        stroke = "document.querySelector('#plot-curves-0 .scatterlayer .trace:last-child .js-line').style.stroke"
        scale = "document.querySelector('#plot-parallel-0').data[0].line.colorscale[0][1]"
        before = page.evaluate(stroke), page.evaluate(scale)
        page.emulate_media(color_scheme="dark")
        page.wait_for_function(f"{stroke} !== {json.dumps(before[0])} && {scale} !== {json.dumps(before[1])}")


@pytest.mark.slow
def test_tables_are_sorted_by_value(browser, report):
    with opened(browser, report) as page:
        ranked = ["additive", "additive", "softmax", "softmax", "linear", "linear", "performer"]
        assert cells(page, 0) == ranked
        board = page.locator("#leaderboard-0-0")
        head = board.get_by_role("columnheader", name="accuracy, %")
        head.get_by_role("button").click()
        assert head.get_attribute("aria-sort") == "descending"
        assert cells(page, 4)[0].startswith("93.00")
        head.get_by_role("button").click()
        assert head.get_attribute("aria-sort") == "ascending"
        found = cells(page, 4)
        assert found[0].startswith("60.00")
        assert found[-1] == "–", "missing values stay last"
        board.get_by_role("columnheader", name="attention").get_by_role("button").click()
        assert cells(page, 0) == sorted(ranked)
        assert head.get_attribute("aria-sort") == "none"


@pytest.mark.slow
def test_the_filter_applies_to_tables_and_curves(browser, report):
    with opened(browser, report) as page:
        draw(page.locator("#plot-curves-0"))
        box = page.locator("[data-filter=board-0]")
        box.fill("lr=0.001 additive")
        assert cells(page, 0) == ["additive"]
        assert page.locator("[data-count=board-0]").inner_text() == "1 of 7 rows"
        page.wait_for_function("document.querySelectorAll('#plot-curves-0 .scatterlayer .trace').length === 2")
        box.fill("nothing of that kind")
        assert cells(page, 0) == []
        box.fill("")
        assert len(cells(page, 0)) == 7
        page.locator("[data-filter=runs-table]").fill("failed")
        assert cells(page, 3, "runs-table") == ["failed"]


@pytest.mark.slow
def test_another_metric_has_its_own_table(browser, tmp_path):
    for name, accuracy, best in (("additive", 0.9, 0.91), ("softmax", 0.8, 0.95)):
        metrics = {"val/acc1": accuracy, "best/val/acc1": best}
        write_run(tmp_path / "logs" / name, name, metrics=metrics, curve=[0.1, accuracy])
    with opened(browser, write_report(tmp_path)) as page:
        draw(page.locator("#plot-curves-0"))
        names = "[...document.querySelectorAll('#plot-curves-0 .legendtext')].map((text) => text.textContent).join()"
        page.wait_for_function(f"{names} === 'additive,softmax'")
        page.locator("#ranking-0").get_by_label("Best-epoch accuracy").check()
        assert not page.locator("#leaderboard-0-0").is_visible()
        assert cells(page, 0, "leaderboard-0-1") == ["softmax", "additive"]
        page.wait_for_function(f"{names} === 'softmax,additive'")


def test_each_mechanism_has_one_colour_on_the_page(tmp_path):
    """In curves, plots and benchmarks, on all datasets, in whatever order they rank there."""
    for number, (data, ranked) in enumerate({"digits": ("linear", "additive"), "fake": ("softmax", "linear")}.items()):
        for place, attention in enumerate(ranked):
            folder = tmp_path / "logs" / f"{data}{attention}"
            write_lr_run(folder, 0.1 * place, attention, accuracy=0.9 - place / 10 - number / 2, data__name=data)
    write_benchmark(tmp_path / "bench")
    text = write_report(tmp_path, [tmp_path / "bench" / "bench.json"]).read_text(encoding="utf-8")
    blocks = dict(re.findall(r'<script type="application/json" id="data-(\w+)">(.*?)</script>', text))
    figures, boards = json.loads(blocks["figures"]), json.loads(blocks["curves"])["boards"]
    seen = {(row["name"].split()[0], row["colour"]) for board in boards for row in board["rows"]}
    for name, figure in figures.items():
        for trace in figure["data"]:
            if trace["type"] in ("scatter", "bar") and trace["name"] != "Pareto front":
                attention = trace["name"].split()[-1].split(",")[0]
                colour = trace["line"]["color"] if name.startswith("bench") else trace["marker"]["color"]
                seen.add((attention, colour))
    assert len(seen) == len({name for name, _ in seen}) == len({colour for _, colour in seen}) == 3


@pytest.mark.slow
def test_lived_in_logs_have_a_part_per_dataset_and_the_rest_apart(browser, tmp_path):
    write_lived_in(tmp_path / "logs")
    with opened(browser, write_report(tmp_path)) as page:
        assert page.locator("h2").all_inner_texts() == [
            "Leaderboard: digits",
            "Learning curves: digits",
            "Accuracy against cost: digits",
            "Settings: digits",  # with EMA and without
            "Leaderboard: pets",
            "Learning curves: pets",
            "Accuracy against cost: pets",
            "Runs",
            "Config diff",
            "Failed (2)",
            "Stopped on the way (1)",
            "Never started (3)",
            "Debug runs (2)",
        ]
        assert cells(page, 0) == ["additive", "additive", "softmax"]
        assert cells(page, 0, "leaderboard-1-0") == ["additive", "softmax"]


@pytest.mark.slow
def test_curves_of_other_metrics_can_be_selected(browser, report):
    with opened(browser, report) as page:
        draw(page.locator("#plot-curves-0"))
        title = "document.querySelector('#plot-curves-0 .ytitle')?.textContent"
        assert page.evaluate(title) == "Validation accuracy, %"
        page.locator("#learning-0").get_by_label("Training loss").check()
        page.wait_for_function(f"{title} === 'Training loss'")
        # Seven groups: six of three seeds have an interval, the running one does not.
        assert page.locator("#plot-curves-0 .scatterlayer .trace").count() == 6 * 2 + 1


@pytest.mark.slow
def test_hovering_over_a_category_shows_its_name(browser, tmp_path):
    for name, accuracy in (("none", 0.5), ("deit", 0.6)):
        options = dict(overrides=[f"augment={name}"], choices={"augment": name}, data__augment={"x": name})
        write_run(tmp_path / "logs" / name, accuracy=accuracy, **options)
    with opened(browser, write_report(tmp_path)) as page:
        draw(page.locator("#plot-setting-0-0"))
        page.evaluate("Plotly.Fx.hover('plot-setting-0-0', [{ curveNumber: 0, pointNumber: 0 }])")
        assert (
            page.locator("#plot-setting-0-0 .hovertext .nums").text_content() == "additive augment=deit60.00 % at deit"
        )


@pytest.mark.slow
def test_two_configs_are_compared(browser, report):
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
        page.get_by_text("Full config of A").click()
        assert "optimizer.lr\t0.001" in page.locator("#config").inner_text()


@pytest.mark.slow
def test_unfinished_runs_show_error_and_log(browser, report):
    with opened(browser, report) as page:
        assert page.locator("#running .status").all_inner_texts() == ["running"]
        section = page.locator("#failed")
        assert section.locator(".status").all_inner_texts() == ["failed"]
        assert "a <b>loss</b>" in section.inner_text()
        section.get_by_text("Last lines of its log").click()
        assert "the last line </script>" in section.inner_text()


@pytest.mark.slow
def test_a_page_of_one_run(browser, tmp_path):
    write_run(tmp_path / "logs" / "a", accuracy=0.5, curve=[0.5])
    with opened(browser, write_report(tmp_path)) as page:
        assert draw_all(page) == 5
        assert cells(page, 3) == ["50.00"]
        assert "±" not in page.locator("#leaderboard-0-0").inner_text()
        assert page.locator("#plot-curves-0 .scatterlayer .trace").count() == 1, "no interval"


@pytest.mark.slow
def test_a_page_of_benchmarks_alone(browser, tmp_path):
    write_benchmark(tmp_path / "bench")
    with opened(browser, write_report(tmp_path, [tmp_path / "bench" / "bench.json"])) as page:
        assert draw_all(page) == 2


def test_the_page_is_self_contained(report):
    text = report.read_text(encoding="utf-8")
    assert text.count("plotly.js v") == 1
    outside = re.sub(r"<script>.*?</script>", "", text, flags=re.DOTALL)
    assert not re.findall(r"<(?:script|img|link|iframe)[^>]*(?:src|href)=\"(?!data:)", outside)


def test_configs_of_many_runs_are_stored_once(tmp_path):
    for number in range(3):
        write_run(tmp_path / str(number), seed=number, optimizer__lr=0.1 if number else 0.2)
    (tmp_path / "3" / ".hydra").mkdir(parents=True)
    found = compact_configs(collect_runs([tmp_path]))
    assert found["seed"] == [["0", "1", "2"], [0, 1, 2, -1]]
    assert found["optimizer.lr"] == [["0.2", "0.1"], [0, 1, 1, -1]]
    assert found["environment.packages.torch"] == [["2.9.0"], [0, 0, 0, -1]]
    found = compact_configs(collect_runs([tmp_path / "0", tmp_path / "1"]))
    assert found["model.depth"] == [["4"]]
    assert found["callbacks.best.dirpath"] == [["${output_dir}/checkpoints"]]


@pytest.mark.slow
def test_500_runs_open_within_3_seconds(browser, tmp_path):
    """CPU time of the page's main thread until the first plot is drawn, which does not depend on other load."""
    for number in range(500):
        kind, seed = divmod(number, 5)
        attention, lr = divmod(kind, 4)
        curve = [1 - 0.99**epoch for epoch in range(100)]
        options = dict(seed=seed, accuracy=0.5 + number / 1000, curve=curve)
        write_lr_run(tmp_path / "logs" / str(number), lr, f"mechanism{attention}", **options)
    with opened(browser, write_report(tmp_path)) as page:
        devtools = page.context.new_cdp_session(page)
        devtools.send("Performance.enable", {"timeDomain": "threadTicks"})
        page.reload()
        draw(page.locator("#plot-curves-0"))
        metrics = {item["name"]: item["value"] for item in devtools.send("Performance.getMetrics")["metrics"]}
        assert len(cells(page, 0)) == 100
    assert 0.05 < metrics["TaskDuration"] < 3
