import pytest
from hydra import compose, initialize_config_dir

from fvit.config import validation
from fvit.config.errors import ConfigError
from fvit.config.paths import conf_dir
from fvit.config.schemas.bench import Bench
from fvit.reports.bench.grid import collect_candidates


def check(*overrides, candidates=("attention=additive",)):
    arguments = collect_candidates(["output_dir=here", *candidates, *overrides], Bench.model_fields)
    with initialize_config_dir(str(conf_dir()), version_base="1.3"):
        return validation.check(compose("bench", overrides=arguments), Bench)


def test_the_defaults_pass_and_are_all_keys():
    assert set(check()) == set(Bench.model_fields)


def test_one_value_is_a_list_of_one():
    config = Bench.model_validate(check("res=224", "what=macs", "precision=bf16", "compile=true"))
    assert (config.res, config.what, config.precision, config.compile) == ([224], ["macs"], ["bf16"], [True])


@pytest.mark.parametrize(
    ("overrides", "expected"),
    [
        ([], (["float32"], [False], 4)),
        (["device=mps"], (["float32"], [False], 4)),
        (["device=cuda"], (["bf16"], [False, True], 128)),
        (["device=cuda", "precision=float32", "compile=true", "batch=2"], (["float32"], [True], 2)),
    ],
    ids=str,
)
def test_defaults_are_those_of_the_device(overrides, expected):
    config = Bench.model_validate(check(*overrides))
    assert (config.precision, config.compile, config.batch) == expected


@pytest.mark.parametrize(
    ("overrides", "message"),
    [
        (["what=[latancy]"], "what.0='latancy': input should be 'params', 'macs', 'latency'"),
        (["what=[]"], "what=\\[\\]: list should have at least 1 item"),
        (["res=[-1]"], "res.0=-1"),
        (["res=[[48]]"], "res.0"),
        (["res=big"], "res"),
        (["precision=[fp8]"], "precision.0='fp8'"),
        (["device=gpu"], "device='gpu': input should be 'cpu', 'cuda' or 'mps'"),
        (["runs=2"], "runs=2: input should be greater than or equal to 3"),
        (["match=flops", "to=vit_tiny"], "match='flops': input should be 'params', 'macs' or 'latency'"),
        (["match=macs"], "match=macs needs the model whose cost to match: to=vit_small"),
        (["to=vit_small"], "to=vit_small has no effect without match="),
        (["match_by=depth"], "match_by=depth has no effect without match="),
    ],
)
def test_an_invalid_configuration_is_refused_with_the_remedy(overrides, message):
    with pytest.raises(ConfigError, match=message):
        check(*overrides)


@pytest.mark.parametrize(
    ("candidates", "message"),
    [
        ([], "say what to measure: attention=additive,softmax model=vit_tiny"),
        (["optimizer.lr=1"], "fvit-bench has no key optimizer.lr; attention, model and model"),
        (["attenton=additive"], "has no key attenton, did you mean attention"),
        (["+modle.depth=3"], "has no key modle.depth, did you mean model"),
        (["res_=3"], "has no key res_, did you mean res"),
        (["+dtype=bf16"], "has no key dtype"),
    ],
)
def test_candidates_must_be_models(candidates, message):
    with pytest.raises(ConfigError, match=message):
        check(candidates=candidates)
