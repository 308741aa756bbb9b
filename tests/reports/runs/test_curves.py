import os

import pytest

from fvit.reports.runs.curves import average, curves, read_history
from fvit.reports.runs.gather import gather
from fvit.reports.runs.groups import group
from fvit.reports.runs.statistics import estimate
from tests.reports.runs.folders import write_curve, write_run, write_sweep


def test_a_history_is_by_images_seen(tmp_path):
    write_run(tmp_path / "a", curve=[0.1, 0.2])
    [run] = gather([tmp_path])
    assert read_history(run) == {
        "val/acc1": {640: 0.1, 1280: 0.2},
        "val/loss": {640: 1.5, 1280: 1.5},
        "train/loss": {5 * 64: 1.9, 15 * 64: 1.8},
    }


def test_what_was_measured_again_and_what_was_cut_off(tmp_path):
    folder = write_run(tmp_path / "a", curve=[0.1, 0.2])
    with (folder / "csv" / "metrics.csv").open("a") as file:
        file.write("1,,19,,0.3,1.4\n2,,29,,nan,inf\n2,,2")
    history = read_history(gather([tmp_path])[0])
    assert history["val/acc1"] == {640: 0.1, 1280: 0.3}


def test_a_damaged_line_hides_no_other(tmp_path):
    folder = write_run(tmp_path / "a", curve=[0.1, 0.2])
    with (folder / "csv" / "metrics.csv").open("ab") as file:
        file.write(b"\x00\xff,\xfe,29,,0.9\xff,\n3,,39,,0.3,1.5\n")
    assert read_history(gather([tmp_path])[0])["val/acc1"] == {640: 0.1, 1280: 0.2, 2560: 0.3}


def test_without_a_file_there_is_no_history(tmp_path):
    write_run(tmp_path / "a")
    assert not any(read_history(gather([tmp_path])[0]).values())


def test_seeds_are_averaged_with_a_band(tmp_path):
    write_sweep(tmp_path)
    additive, softmax = curves(group(gather([tmp_path]), "softmax"))["val/acc1"]
    assert additive["x"] == [640, 1280, 1920]
    assert additive["n"] == 3
    expected = estimate([91.0, 92.0, 96.0])
    assert additive["y"][-1] == pytest.approx(expected.mean, rel=1e-3)
    assert additive["low"][-1] == pytest.approx(expected.mean - expected.half, rel=1e-3)
    assert additive["high"][-1] == pytest.approx(expected.mean + expected.half, rel=1e-3)
    assert softmax["y"][0] == pytest.approx(0.3 * 91, rel=1e-3)


def test_one_seed_has_no_band(tmp_path):
    write_run(tmp_path / "a", curve=[0.5, 0.6])
    [curve] = curves(group(gather([tmp_path]), "softmax"))["val/acc1"]
    assert (curve["y"], curve.keys() & {"low", "high"}) == ([50, 60], set())


def test_a_seed_that_ended_early_makes_no_jump():
    curve = average([{1: 0.0, 2: 0.2, 3: 0.9}, {1: 0.1, 2: 0.3}])
    assert (curve["x"], curve["y"]) == ([1, 2], [0.05, 0.25])
    assert average([{1: 0.0}, {2: 0.0}]) is None
    assert average([{}, {}]) is None


def test_runs_that_did_not_finish_show_how_far_they_got_unless_others_did(tmp_path):
    write_run(tmp_path / "0", seed=0, status="running", curve=[0.1])
    [curve] = curves(group(gather([tmp_path]), "softmax"))["val/acc1"]
    assert curve["y"] == [10]
    write_run(tmp_path / "1", seed=1, curve=[0.5, 0.6])
    [curve] = curves(group(gather([tmp_path]), "softmax"))["val/acc1"]
    assert (curve["y"], curve["n"]) == ([50, 60], 1)


def test_a_seed_that_failed_twice_is_one_seed_without_a_band(tmp_path):
    for name, curve, touched in (("again", [0.3, 0.4], 2000), ("first", [0.1, 0.2], 1000)):
        folder = write_run(tmp_path / name, status="failed", curve=curve)
        for path in (folder, *folder.rglob("*")):
            os.utime(path, (touched, touched))
    [curve] = curves(group(gather([tmp_path]), "softmax"))["val/acc1"]
    assert (curve["y"], curve["n"], curve.keys() & {"low", "high"}) == ([30, 40], 1, set())


def test_long_curves_are_thinned_to_their_ends(tmp_path):
    folder = write_run(tmp_path / "a")
    write_curve(folder, [i / 1000 for i in range(1000)])
    [curve] = curves(group(gather([tmp_path]), "softmax"))["val/acc1"]
    assert len(curve["x"]) == 120
    assert (curve["y"][0], curve["y"][-1]) == (0, 99.9)
    assert curve["x"] == sorted(set(curve["x"]))
