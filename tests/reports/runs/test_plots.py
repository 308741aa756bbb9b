import pytest

from fvit.reports.runs.gather import gather
from fvit.reports.runs.groups import group
from fvit.reports.runs.parallel import parallel
from fvit.reports.runs.plots import pareto, scatter, styles
from tests.reports.runs.folders import COST, write_run, write_sweep


def rows(folder):
    return group(gather([folder]), "softmax")


def run(folder, name, attention, accuracy, macs, speed, **options):
    metrics = {"val/acc1": accuracy, **COST, "cost/macs": macs, "throughput/images_per_s": speed}
    return write_run(folder / name, attention, metrics=metrics, **options)


def test_the_front_is_marked_for_costs_and_for_speed(tmp_path):
    run(tmp_path, "a", "additive", 0.8, 1e6, 300)
    run(tmp_path, "b", "softmax", 0.9, 3e6, 100)
    run(tmp_path, "c", "linear", 0.7, 2e6, 200)
    figures = pareto(rows(tmp_path))
    assert list(figures) == ["macs", "params", "throughput", "memory"]
    *points, front = figures["macs"]["data"]
    assert [(trace["name"], trace["x"], trace["y"]) for trace in points] == [
        ("softmax", [3.0], [90.0]),
        ("additive", [1.0], [80.0]),
        ("linear", [2.0], [70.0]),
    ]
    assert (front["x"], front["y"], front["text"]) == ([1.0, 3.0], [80.0, 90.0], ["additive", "softmax"])
    assert figures["throughput"]["data"][-1]["x"] == [300, 100], "more of it is better"
    assert figures["params"]["data"][-1]["text"] == ["softmax"]


def test_a_front_is_among_runs_on_the_same_data(tmp_path):
    run(tmp_path, "a", "additive", 0.9, 1e6, 1)
    run(tmp_path, "b", "additive", 0.5, 2e6, 1, data__name="cifar10")
    fronts = [trace for trace in pareto(rows(tmp_path))["macs"]["data"] if trace["name"] == "front"]
    assert [trace["x"] for trace in fronts] == [[1.0], [2.0]]


def test_bars_are_drawn_where_there_are_several_seeds(tmp_path):
    write_sweep(tmp_path, ["additive"])
    run(tmp_path, "x", "softmax", 0.5, 1e6, 1)
    additive, softmax, _ = pareto(rows(tmp_path))["macs"]["data"]
    assert additive["error_y"]["array"] == [pytest.approx(6.57, abs=0.01)]
    assert softmax["error_y"]["array"] == [None]


def test_costs_that_nobody_measured_are_not_drawn(tmp_path):
    write_run(tmp_path / "a", metrics={"val/acc1": 0.5, "cost/macs": 1e6})
    assert list(pareto(rows(tmp_path))) == ["macs"]
    write_run(tmp_path / "b", "softmax", status="failed")
    assert list(pareto(rows(tmp_path))) == ["macs"]


def test_settings_are_drawn_over_their_values(tmp_path):
    for lr, accuracy in ((1e-3, 0.7), (1e-2, 0.9), (1e-4, 0.6)):
        write_run(tmp_path / str(lr), accuracy=accuracy, overrides=[f"optimizer.lr={lr}"], optimizer__lr=lr)
    [(key, figure)] = scatter(rows(tmp_path)).items()
    [trace] = figure["data"]
    assert (key, trace["x"], trace["y"]) == ("optimizer.lr", [1e-4, 1e-3, 1e-2], [60, 70, 90])
    assert (trace["mode"], figure["layout"]["xaxis"]["type"]) == ("lines+markers", "log")
    assert figure["layout"]["xaxis"]["ticktext"] == ["0.0001", "0.001", "0.01"]
    assert parallel(rows(tmp_path)) is None, "there is one setting alone"


def test_options_are_categories(tmp_path):
    for name in ("none", "deit"):
        options = dict(overrides=[f"augment={name}"], choices={"augment": name}, data__augment={"x": name})
        write_run(tmp_path / name, **options)
    figure = scatter(rows(tmp_path))["augment"]
    assert figure["layout"]["xaxis"]["type"] == "category"
    [trace] = figure["data"]
    assert sorted(trace["x"]) == ["deit", "none"]
    assert "%{x}" in trace["hovertemplate"], "a format makes NaN of a name"


def test_nothing_varied_nothing_drawn(tmp_path):
    write_sweep(tmp_path)
    assert scatter(rows(tmp_path)) == {}
    assert parallel(rows(tmp_path)) is None


def test_parallel_coordinates(tmp_path):
    for attention, lr, accuracy in (("additive", 0.001, 0.5), ("additive", 0.003, 0.6), ("softmax", 0.002, 0.9)):
        options = dict(overrides=[f"optimizer.lr={lr}"], optimizer__lr=lr)
        write_run(tmp_path / f"{attention}{lr}", attention, accuracy=accuracy, **options)
    figure = parallel(rows(tmp_path))
    traces = figure["data"]
    assert [trace["x"] for trace in traces] == [[0, 1, 2, None]] * 3
    found = [(trace["text"][0], trace["y"][:3]) for trace in traces]
    assert found == [  # attention from the first, lr from 0.001 to 0.003, accuracy from 50 to 90
        ("additive lr=0.001: 50.00 %", [1, 0, 0]),
        ("additive lr=0.003: 60.00 %", [1, 1, pytest.approx(0.25)]),
        ("softmax lr=0.002: 90.00 %", [0, pytest.approx(0.5), 1]),
    ]
    texts = [note["text"] for note in figure["layout"]["annotations"]]
    assert texts == [
        *("softmax", "additive", "0.001", "0.003", "50.00", "90.00"),
        *("<b>attention</b>", "<b>lr</b>", "<b>accuracy, %</b>"),
    ]


@pytest.mark.parametrize(
    ("rates", "heights", "texts"),
    [
        ([1e-4, 1e-3, 3e-3, 1e-2], [0, 0.5, 0.7386, 1], ["0.0001", "0.01", "0.001", "0.003"]),
        # A text at 1.1e-4 would cover the end's; of many values powers of ten are told.
        ([1e-4, 1.1e-4, 1e-2], [0, 0.0207, 1], ["0.0001", "0.01"]),
        ([2e-4 * 2**i for i in range(10)], [i / 9 for i in range(10)], ["0.0002", "0.1024", "0.001", "0.01"]),
    ],
)
def test_parallel_coordinates_over_decades_are_logarithmic(tmp_path, rates, heights, texts):
    for number, lr in enumerate(rates):
        options = dict(overrides=[f"optimizer.lr={lr}"], optimizer__lr=lr, accuracy=0.5 + number / 100)
        write_run(tmp_path / str(number), "softmax" if number else "additive", **options)
    figure = parallel(rows(tmp_path))
    places = [trace["y"][i + 1] for trace in figure["data"] for i in range(0, len(trace["y"]), 4)]
    assert sorted(places) == pytest.approx(heights, abs=1e-3)
    notes = [note["text"] for note in figure["layout"]["annotations"] if note["x"] == 1]
    assert notes[:-1] == texts


def test_colours_are_of_attentions_and_dashes_tell_rows_apart(tmp_path):
    for number, attention in enumerate(["additive", "additive", "softmax"]):
        write_run(tmp_path / str(number), attention, accuracy=1 - number / 10, optimizer__lr=number)
    first, second, third = styles(rows(tmp_path))
    assert first["colour"] == second["colour"] != third["colour"]
    assert first["dash"] != second["dash"]
    assert third["dash"] == "solid"
