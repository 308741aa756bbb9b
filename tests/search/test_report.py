import random

import optuna
import pytest
from optuna.distributions import FloatDistribution
from optuna.trial import create_trial

from fvit.search import report

SPACE = {"x": FloatDistribution(0, 1)}


@pytest.fixture
def study():
    """`study(directions, values)`: trials with those values of the objectives."""

    def make(directions, values):
        study = optuna.create_study(directions=directions)
        for point in values:
            study.add_trial(create_trial(params={"x": 0.5}, distributions=SPACE, values=point))
        return study

    return make


def dominates(one, other):
    """Accuracy up, cost down."""
    return one != other and one[0] >= other[0] and one[1] <= other[1]


def test_the_pareto_front_is_that_of_brute_force(study):
    rng = random.Random(0)
    points = [(rng.randint(0, 20), rng.randint(0, 20)) for _ in range(120)]
    best = report.best_trials(study(["maximize", "minimize"], points))
    expected = {point for point in points if not any(dominates(other, point) for other in points)}
    assert {tuple(trial.values) for trial in best} == expected
    assert [trial.values for trial in best] == sorted(trial.values for trial in best)


@pytest.mark.parametrize(("direction", "expected"), [("maximize", [5, 4, 3]), ("minimize", [1, 2, 3])])
def test_the_best_come_first(study, direction, expected):
    best = report.best_trials(study([direction], [[2], [5], [1], [4], [3]]), limit=3)
    assert [trial.value for trial in best] == expected


@pytest.mark.parametrize("objectives", [1, 2, 3, 4])
def test_the_page_opens_offline(study, tmp_path, objectives):
    names = [f"metric/{number}" for number in range(objectives)]
    values = [[(row * column) % 7 for column in range(1, objectives + 1)] for row in range(1, 6)]
    assert report.write_page(study(["maximize"] * objectives, values), names, tmp_path) == tmp_path / "study.html"
    page = (tmp_path / "study.html").read_text()
    assert page.count("plotly.js v") == 1
    assert "<script src" not in page
    assert all(name in page for name in names)


def test_nothing_is_plotted_before_a_trial_is_finished(study, tmp_path, capsys):
    empty = study(["maximize"], [])
    assert report.write_page(empty, ["score"], tmp_path) is None
    report.print_study(empty, ["score"], tmp_path, None)
    assert capsys.readouterr().out.split() == ["trials", "none", "saved", "to", str(tmp_path)]
