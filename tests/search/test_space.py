import pytest
from hydra import initialize_config_dir
from hydra.core.global_hydra import GlobalHydra
from hydra.core.override_parser.overrides_parser import OverridesParser
from optuna.distributions import CategoricalDistribution, FloatDistribution, IntDistribution

from fvit.config.errors import ConfigError
from fvit.config.paths import conf_dir
from fvit.search import space


@pytest.fixture
def parse():
    with initialize_config_dir(str(conf_dir()), version_base="1.3"):
        loader = GlobalHydra.instance().config_loader()
        yield lambda *arguments, **params: space.parse(params, arguments, loader)


@pytest.mark.parametrize(
    ("sweep", "expected"),
    [
        ("choice(a,b)", CategoricalDistribution(["a", "b"])),
        ("a,b,a", CategoricalDistribution(["a", "b"])),
        ("choice(0.5,true)", CategoricalDistribution(["0.5", "True"])),
        ("0.5,null", CategoricalDistribution(["0.5", "null"])),
        ("[1,2],[3,4]", CategoricalDistribution(["[1,2]", "[3,4]"])),
        ("choice(one)", CategoricalDistribution(["one"])),
        ("interval(0,1)", FloatDistribution(0, 1)),
        ("interval(1e-4,1e-2)", FloatDistribution(1e-4, 1e-2)),
        ("tag(log,interval(1e-4,1e-2))", FloatDistribution(1e-4, 1e-2, log=True)),
        ("int(interval(1,6))", IntDistribution(1, 6)),
        ("tag(log,int(interval(1,64)))", IntDistribution(1, 64, log=True)),
        ("range(1,5)", IntDistribution(1, 4)),
        ("range(1,8,3)", IntDistribution(1, 7, step=3)),
        ("range(7,0,-3)", IntDistribution(1, 7, step=3)),
        ("range(0,1,0.25)", FloatDistribution(0, 0.75, step=0.25)),
        ("range(0,1,0.1)", FloatDistribution(0, 0.9, step=0.1)),
        ("tag(log,range(1,9))", IntDistribution(1, 8, log=True)),
    ],
)
def test_hydras_sweeps_are_optunas_distributions(parse, sweep, expected):
    found, fixed = parse(f"key={sweep}")
    assert found == {"key": expected}
    assert fixed == []


def test_a_range_has_the_integers_of_hydra(parse):
    for sweep, visited in (("range(2,12,3)", [2, 5, 8, 11]), ("range(9,1,-2)", [3, 5, 7, 9])):
        [distribution] = parse(f"key={sweep}")[0].values()
        assert list(range(distribution.low, distribution.high + 1, distribution.step)) == visited


def test_the_command_line_replaces_a_parameter(parse):
    params = {"optimizer.lr": "interval(5,6)", "model.depth": "range(1,3)"}
    found, fixed = parse("seed=3", "optimizer.lr=interval(0,1)", "model.depth=4", **params)
    assert found == {"optimizer.lr": FloatDistribution(0, 1)}
    assert fixed == ["seed=3", "model.depth=4"]


def test_other_forms_of_a_key_name_the_same_parameter(parse):
    found, fixed = parse("+model.extra=1,2", "~callbacks", **{"model.extra": "interval(0,1)"})
    assert found == {"+model.extra": CategoricalDistribution(["1", "2"])}
    assert fixed == ["~callbacks"]


def test_a_list_is_a_choice(parse):
    found, _ = parse(key=[1e-3, None, True, "softmax"])
    assert found == {"key": CategoricalDistribution(["0.001", "null", "True", "softmax"])}


def test_a_glob_knows_the_options_of_a_group(parse):
    assert parse("scheduler=glob(*,exclude=wsd)")[0] == {"scheduler": CategoricalDistribution(["constant", "cosine"])}


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["seed=1"], "nothing to search"),
        (["key=tag(log,interval(0,1))"], "key=tag.log,interval.0,1.. cannot be searched"),
        (["key=interval(2,1)"], "cannot be searched"),
        (["key=range(3,3)"], "the range is empty"),
        (["key=tag(log,range(1,9,2))"], "cannot be searched"),
        (["key=tag(log,range(0.5,2,0.5))"], "steps of equal size"),
        (["key=tag(lg,interval(1,2))"], "tag lg has no effect"),
        (["key=tag(log,choice(1,2))"], "tag log has no effect"),
    ],
)
def test_an_impossible_search_is_refused(parse, arguments, message):
    with pytest.raises(ConfigError, match=message):
        parse(*arguments)


def test_overrides_keep_the_exact_values(parse):
    values = {"lr": 0.1 + 0.2, "small": 1.2345678901234567e-7, "depth": 3, "attention": "softmax", "size": "[1,2]"}
    parsed = OverridesParser.create().parse_overrides(space.overrides(values))
    assert [override.value() for override in parsed] == [0.1 + 0.2, 1.2345678901234567e-7, 3, "softmax", [1, 2]]


def test_a_few_trials_cover_all_choices(parse):
    found, _ = parse("a=1,2,3", "b=x,y", "c=interval(0,1)")
    assert space.covering(found) == [["a=1", "b=x", "c=0.0"], ["a=2", "b=y", "c=0.0"], ["a=3", "b=x", "c=0.0"]]
