import pytest

from fvit.reports.runs.flat import MISSING, compact, flatten, show
from fvit.reports.runs.gather import gather
from tests.reports.runs.folders import write_run


def test_the_runs_own_folder_is_told_as_such():
    config = {"output_dir": "/x/0", "a": {"b": "/x/0/checkpoints", "c": {}}, "d": [1, None]}
    assert flatten(config, config) == {
        "output_dir": "/x/0",
        "a.b": "${output_dir}/checkpoints",
        "a.c": "{}",
        "d": "[1, null]",
    }


@pytest.mark.parametrize(
    ("value", "text"), [(1e-3, "0.001"), (0.1234567891, "0.1234567891"), (None, "null"), (True, "true"), ("a", "a")]
)
def test_values_are_as_on_the_command_line(value, text):
    assert show(value) == text


def test_configurations_of_many_runs_are_kept_once(tmp_path):
    for number in range(3):
        write_run(tmp_path / str(number), seed=number, optimizer__lr=0.1 if number else 0.2)
    (tmp_path / "3" / ".hydra").mkdir(parents=True)
    found = compact(gather([tmp_path]))
    assert found["seed"] == [["0", "1", "2"], [0, 1, 2, MISSING]]
    assert found["optimizer.lr"] == [["0.2", "0.1"], [0, 1, 1, MISSING]]
    assert found["environment.packages.torch"] == [["2.9.0"], [0, 0, 0, MISSING]]
    without = compact(gather([tmp_path / "0", tmp_path / "1"]))
    assert without["model.depth"] == [["4"]]
    assert without["callbacks.best.dirpath"] == [["${output_dir}/checkpoints"]]
