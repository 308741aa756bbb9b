import os

import pytest

from fvit.reports.runs.collect import collect_runs
from fvit.reports.runs.curves import mean_curve, mean_curves, read_history
from fvit.reports.runs.groups import mean_ci, rank_runs
from tests.reports.runs.folders import write_curve, write_run, write_sweep


def history(folder):
    return read_history(collect_runs([folder])[0])


def accuracy_curves(folder):
    return mean_curves(rank_runs(collect_runs([folder]), "softmax")[0].groups)["val/acc1"]


def test_a_history_is_over_images_seen(tmp_path):
    write_run(tmp_path / "a", curve=[0.1, 0.2])
    assert history(tmp_path) == {
        "val/acc1": {640: 0.1, 1280: 0.2},
        "val/loss": {640: 1.5, 1280: 1.5},
        "train/loss": {5 * 64: 1.9, 15 * 64: 1.8},
    }


@pytest.mark.parametrize(
    ("appended", "accuracy"),
    [
        (b"1,,19,,0.3,1.4\n", {640: 0.1, 1280: 0.3}),  # a resumed run repeats a step
        (b"2,,29,,nan,inf\n2,,2", {640: 0.1, 1280: 0.2}),  # not finite, and cut off
        (b"\x00\xff,\xfe,29,,0.9\xff,\n3,,39,,0.3,1.5\n", {640: 0.1, 1280: 0.2, 2560: 0.3}),  # damaged
    ],
)
def test_the_last_readable_value_of_a_step_counts(tmp_path, appended, accuracy):
    folder = write_run(tmp_path / "a", curve=[0.1, 0.2])
    with (folder / "csv" / "metrics.csv").open("ab") as file:
        file.write(appended)
    assert history(tmp_path)["val/acc1"] == accuracy


def test_without_a_file_there_is_no_history(tmp_path):
    write_run(tmp_path / "a")
    assert not any(history(tmp_path).values())


def test_seeds_are_averaged_with_an_interval(tmp_path):
    write_sweep(tmp_path)
    additive, softmax = accuracy_curves(tmp_path)
    assert (additive["x"], additive["n"]) == ([640, 1280, 1920], 3)
    expected = mean_ci([91.0, 92.0, 96.0])
    assert additive["y"][-1] == pytest.approx(expected.mean, rel=1e-3)
    assert additive["low"][-1] == pytest.approx(expected.mean - expected.half_width, rel=1e-3)
    assert additive["high"][-1] == pytest.approx(expected.mean + expected.half_width, rel=1e-3)
    assert softmax["y"][0] == pytest.approx(0.3 * 91, rel=1e-3)


def test_one_seed_has_no_interval(tmp_path):
    write_run(tmp_path / "a", curve=[0.5, 0.6])
    [curve] = accuracy_curves(tmp_path)
    assert (curve["y"], curve.keys() & {"low", "high"}) == ([50, 60], set())


def test_a_mean_ends_where_a_seed_ends():
    curve = mean_curve([{1: 0.0, 2: 0.2, 3: 0.9}, {1: 0.1, 2: 0.3}])
    assert (curve["x"], curve["y"]) == ([1, 2], [0.05, 0.25])
    assert mean_curve([{1: 0.0}, {2: 0.0}]) is None
    assert mean_curve([{}, {}]) is None


def test_unfinished_runs_are_drawn_unless_others_finished(tmp_path):
    write_run(tmp_path / "0", seed=0, status="running", curve=[0.1])
    assert accuracy_curves(tmp_path)[0]["y"] == [10]
    write_run(tmp_path / "1", seed=1, curve=[0.5, 0.6])
    [curve] = accuracy_curves(tmp_path)
    assert (curve["y"], curve["n"]) == ([50, 60], 1)


def test_a_seed_that_runs_twice_is_one_seed(tmp_path):
    for name, curve, moment in (("again", [0.3, 0.4], 2000), ("first", [0.1, 0.2], 1000)):
        folder = write_run(tmp_path / name, status="running", curve=curve)
        for path in (folder, *folder.rglob("*")):
            os.utime(path, (moment, moment))
    [curve] = accuracy_curves(tmp_path)
    assert (curve["y"], curve["n"], curve.keys() & {"low", "high"}) == ([30, 40], 1, set())


def test_long_curves_are_thinned_out_between_their_ends(tmp_path):
    folder = write_run(tmp_path / "a")
    write_curve(folder, [i / 1000 for i in range(1000)])
    [curve] = accuracy_curves(tmp_path)
    assert len(curve["x"]) == 120
    assert (curve["y"][0], curve["y"][-1]) == (0, 99.9)
    assert curve["x"] == sorted(set(curve["x"]))
