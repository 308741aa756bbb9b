import pytest
from hypothesis import given
from hypothesis import strategies as st

from fvit.reports.runs.collect import collect_runs
from fvit.reports.runs.groups import rank_runs
from fvit.reports.runs.plots import parallel_plot, pareto_front, pareto_plots, setting_plots, styles
from fvit.reports.web.colours import COLOURS, Palette
from tests.reports.runs.folders import COST, write_lr_run, write_run, write_sweep


def groups_of(folder):
    return [group for ranking in rank_runs(collect_runs([folder]), "softmax") for group in ranking.groups]


def plots_of(draw, folder):
    """The plots that `draw` makes of the runs in `folder`."""
    groups = groups_of(folder)
    return draw(groups, Palette(group.attention for group in groups))


def write_costly_run(folder, attention, accuracy, macs, speed, **options):
    metrics = {"val/acc1": accuracy, **COST, "cost/macs": macs, "throughput/images_per_s": speed}
    return write_run(folder, attention, metrics=metrics, **options)


def test_the_pareto_front():
    points = [(3, 0.9), (1, 0.5), (2, 0.4), (2, 0.7), (3, 0.8), (4, 0.9)]
    assert pareto_front(points) == [1, 3, 0]
    assert pareto_front([]) == []
    assert pareto_front([(1, 1.0), (1, 1.0)]) == [0, 1], "equal points do not dominate each other"


@given(st.lists(st.tuples(st.integers(0, 6), st.integers(0, 6)), max_size=12))
def test_the_pareto_front_is_what_no_point_dominates(points):
    def dominated(one):
        return any(o != one and o[0] <= one[0] and o[1] >= one[1] for o in points)

    assert sorted(pareto_front(points)) == [i for i, one in enumerate(points) if not dominated(one)]


def test_the_front_is_drawn_for_costs_and_for_throughput(tmp_path):
    write_costly_run(tmp_path / "a", "additive", 0.8, 1e6, 300)
    write_costly_run(tmp_path / "b", "softmax", 0.9, 3e6, 100)
    write_costly_run(tmp_path / "c", "linear", 0.7, 2e6, 200)
    figures = plots_of(pareto_plots, tmp_path)
    assert list(figures) == ["macs", "params", "throughput", "memory"]
    *points, front = figures["macs"]["data"]
    assert [(trace["name"], trace["x"], trace["y"]) for trace in points] == [
        ("softmax", [3.0], [90.0]),
        ("additive", [1.0], [80.0]),
        ("linear", [2.0], [70.0]),
    ]
    assert (front["x"], front["y"], front["text"]) == ([1.0, 3.0], [80.0, 90.0], ["additive", "softmax"])
    assert figures["throughput"]["data"][-1]["x"] == [300, 100], "more is better"
    assert figures["params"]["data"][-1]["text"] == ["softmax"]


def test_several_seeds_have_error_bars(tmp_path):
    write_sweep(tmp_path, ["additive"])
    write_costly_run(tmp_path / "x", "softmax", 0.5, 1e6, 1)
    additive, softmax, _ = plots_of(pareto_plots, tmp_path)["macs"]["data"]
    assert additive["error_y"]["array"] == [pytest.approx(6.57, abs=0.01)]
    assert softmax["error_y"]["array"] == [None]


def test_costs_that_were_not_measured_are_not_drawn(tmp_path):
    write_run(tmp_path / "a", metrics={"val/acc1": 0.5, "cost/macs": 1e6})
    write_run(tmp_path / "b", "softmax", status="failed")
    assert list(plots_of(pareto_plots, tmp_path)) == ["macs"]


def test_a_numeric_setting_is_drawn_over_its_values(tmp_path):
    for lr, accuracy in ((1e-3, 0.7), (1e-2, 0.9), (1e-4, 0.6)):
        write_lr_run(tmp_path / str(lr), lr, accuracy=accuracy)
    [(key, figure)] = plots_of(setting_plots, tmp_path).items()
    [trace] = figure["data"]
    assert (key, trace["x"], trace["y"]) == ("optimizer.lr", [1e-4, 1e-3, 1e-2], [60, 70, 90])
    assert (trace["mode"], figure["layout"]["xaxis"]["type"]) == ("lines+markers", "log")
    assert figure["layout"]["xaxis"]["ticktext"] == ["0.0001", "0.001", "0.01"]
    assert parallel_plot(groups_of(tmp_path)) is None, "there is only one setting"


def test_an_option_is_drawn_over_categories(tmp_path):
    for name in ("none", "deit"):
        options = dict(overrides=[f"augment={name}"], choices={"augment": name}, data__augment={"x": name})
        write_run(tmp_path / name, **options)
    figure = plots_of(setting_plots, tmp_path)["augment"]
    assert figure["layout"]["xaxis"]["type"] == "category"
    [trace] = figure["data"]
    assert sorted(trace["x"]) == ["deit", "none"]
    assert "%{x}" in trace["hovertemplate"], "a number format would show NaN"


def test_a_setting_of_one_run_among_many_is_not_drawn(tmp_path):
    for number, attention in enumerate(("additive", "softmax", "linear", "performer", "gmlp")):
        write_run(tmp_path / attention, attention, accuracy=number / 10)
    write_lr_run(tmp_path / "other", 0.1)
    assert plots_of(setting_plots, tmp_path) == {}


def test_without_settings_nothing_is_drawn(tmp_path):
    write_sweep(tmp_path)
    assert plots_of(setting_plots, tmp_path) == {}
    assert parallel_plot(groups_of(tmp_path)) is None


def test_parallel_coordinates(tmp_path):
    for attention, lr, accuracy in (("additive", 0.001, 0.5), ("additive", 0.03, 0.6), ("softmax", 0.002, 0.9)):
        write_lr_run(tmp_path / f"{attention}{lr}", lr, attention, accuracy=accuracy)
    [trace] = parallel_plot(groups_of(tmp_path))["data"]
    assert trace["type"] == "parcoords"
    attention, lr, accuracy = trace["dimensions"]
    assert [axis["label"] for axis in trace["dimensions"]] == ["attention", "lr", "accuracy, %"]
    assert (attention["values"], attention["ticktext"]) == ([0, 0, 1], ["additive", "softmax"])
    assert (lr["values"], lr["tickvals"], lr["ticktext"]) == ([0, 2, 1], [0, 1, 2], ["0.001", "0.002", "0.03"])
    assert accuracy["values"] == trace["line"]["color"] == [50, 60, 90], "the most accurate is drawn last"


@pytest.mark.parametrize(
    ("rates", "axis"),
    [
        (
            [1e-4 * 2**i for i in range(9)],
            {"tickvals": [-4, -3, -2, -1], "ticktext": ["0.0001", "0.001", "0.01", "0.1"], "range": [-4, -1]},
        ),
        ([0.1 + i / 100 for i in range(9)], {}),
    ],
)
def test_parallel_axes_of_many_numbers_are_to_scale(tmp_path, rates, axis):
    for number, rate in enumerate(rates):
        attention = "softmax" if number else "additive"
        write_lr_run(tmp_path / str(number), rate, attention, accuracy=0.5 + number / 100)
    found = parallel_plot(groups_of(tmp_path))["data"][0]["dimensions"][1]
    values = [10**value for value in found["values"]] if axis else found["values"]
    assert values == pytest.approx(rates)
    assert {key: found[key] for key in found if key not in ("label", "values")} == axis


def test_colours_are_by_attention_and_dashes_distinguish_groups(tmp_path):
    for number, attention in enumerate(["additive", "additive", "softmax"]):
        write_run(tmp_path / str(number), attention, accuracy=1 - number / 10, optimizer__lr=number)
    first, second, third = plots_of(styles, tmp_path)
    assert first["colour"] == second["colour"] != third["colour"]
    assert first["dash"] != second["dash"]
    assert third["dash"] == "solid"


def test_a_mechanism_that_shares_its_colour_has_another_line_and_marker(tmp_path):
    count = len(COLOURS) + 1
    for number in range(count):
        write_run(tmp_path / str(number), f"mechanism{number}", accuracy=1 - number / 100)
    found = plots_of(styles, tmp_path)
    assert len({style["colour"] for style in found}) == len(COLOURS)
    assert found[0]["colour"] == found[-1]["colour"]
    assert found[0]["dash"] != found[-1]["dash"]
    assert found[0]["symbol"] != found[-1]["symbol"]
