import pytest
import yaml
from hydra import compose, initialize_config_dir
from hydra.errors import ConfigCompositionException

from fvit.config.errors import ConfigError
from fvit.config.paths import conf_dir
from fvit.config.schemas.bench import Bench
from fvit.reports.bench.grid import collect_candidates, compose_point, expand_grid


@pytest.fixture(autouse=True)
def hydra():
    with initialize_config_dir(str(conf_dir()), version_base="1.3"):
        yield


def collect(arguments):
    return collect_candidates(arguments, Bench.model_fields)


def names(*overrides):
    return [(point.model, point.attention) for point in expand_grid(overrides)]


@pytest.mark.parametrize(
    ("arguments", "collected"),
    [
        (["attention=additive,softmax", "res=224"], ["res=224", "candidates=['attention=additive,softmax']"]),
        (["res=224,384", "what=macs,params"], ["res=[224,384]", "what=[macs,params]"]),
        (["res=[224,384]"], ["res=[224,384]"]),
        (["hydra.run.dir=a,b", "hydra/job_logging=none"], ["hydra.run.dir=[a,b]", "hydra/job_logging=none"]),
        (["--cfg", "job", "--config-dir=x"], ["--cfg", "job", "--config-dir=x"]),
        (["+model.x=1", "model.depth=2"], ["candidates=['+model.x=1','model.depth=2']"]),
        (["model.a='b c'"], [r"candidates=['model.a=\'b c\'']"]),
        (["optimizer.lr=1"], ["candidates=['optimizer.lr=1']"]),
        (["batch=8"], ["batch=8"]),
        ([], []),
    ],
)
def test_overrides_of_models_are_collected(arguments, collected):
    assert collect(arguments) == collected


@pytest.mark.parametrize("flag", ["-m", "--multirun"])
def test_a_multirun_is_refused(flag):
    with pytest.raises(ConfigError, match=f"{flag} would measure each model separately; leave it out"):
        collect([flag, "attention=additive,softmax"])


def test_collected_overrides_survive_hydras_grammar():
    texts = ["attention=a,b", "model.a='b c'", r"model.b=C:\d", "model.name=[a,b]", "model.c=\\", r"model.d='\'\\'"]
    assert compose("bench", overrides=collect(texts)).candidates == texts


@pytest.mark.parametrize(
    ("overrides", "expected"),
    [
        (["attention=focused_flatten"], ["vit_atto focused_flatten"]),
        (["model=vit_tiny", "model.name=deit3_small_patch16_224"], ["deit3_small_patch16_224 additive"]),
        (
            ["attention=own", "model.attention.name=mine:Squared,mine:Cubed"],
            ["vit_atto mine:Squared", "vit_atto mine:Cubed"],
        ),
        (["model=timm", "model.name=[fastvit_t8,resnet18]"], ["fastvit_t8 native", "resnet18 native"]),
        (["attention=glob(agent*)"], ["vit_atto agent", "vit_atto agent_deit"]),
        (["model.depth=range(2,5,2)"], ["vit_atto depth=2 additive", "vit_atto depth=4 additive"]),
        (
            ["model=vit_tiny", "model.depth=6,12", "model.num_heads=3"],
            ["vit_tiny depth=6 additive", "vit_tiny depth=12 additive"],
        ),
        (
            ["model.attention.form=textbook,auto"],
            ["vit_atto additive form=textbook", "vit_atto additive form=auto"],
        ),
        (
            ["attention=additive,softmax", "model=vit_tiny,vit_small"],
            ["vit_tiny additive", "vit_small additive", "vit_tiny softmax", "vit_small softmax"],
        ),
    ],
)
def test_grid_points_are_named_by_their_options_and_by_what_varies(overrides, expected):
    assert [" ".join(pair) for pair in names(*overrides)] == expected


def test_a_grid_point_holds_the_options_of_its_model():
    options = compose_point(["model=vit_tiny", "attention=softmax", "model.depth=3", "+model.fc_norm=true"]).options
    assert (options["depth"], options["embed_dim"], options["fc_norm"]) == (3, 192, True)
    assert options["attention"] == yaml.safe_load((conf_dir() / "attention" / "softmax.yaml").read_text())
    # The default dataset has images of 32 px, which do not divide by 14.
    assert compose_point(["model.patch_size=14"]).options["patch_size"] == 14


@pytest.mark.parametrize(
    ("overrides", "message"),
    [
        (["model=timm"], "model.name must be given"),
        (["model=timm", "attention=additive,softmax"], "model.name must be given"),
        (["model=vit_tiny", "model.embed_dim=100,101"], "use embed_dim=99"),
        (["model.pretrained=true"], "model.pretrained=True has no effect on what a model costs"),
        (["model.match=macs"], "model.match is for training; here use match=macs to=MODEL"),
        (["model.init_from=run"], "model.init_from=run has no effect on what a model costs"),
        (["model.keep=[qkv]"], "has no effect on what a model costs"),
        (["+model.img_size=64"], "set data.img_size"),
        (["model.depth=-1"], "model.depth=-1"),
        (["attention=[additive"], r"attention=\[additive"),
        (["attention=[]"], r"attention=\[\] has no values to measure; name at least one"),
        (["model=timm", "model.name=[]"], r"model\.name=\[\] has no values to measure"),
        (["attention=glob(nosuch*)"], r"attention=glob\(nosuch\*\) has no values to measure"),
    ],
)
def test_a_grid_without_a_valid_point_is_refused(overrides, message):
    with pytest.raises(ConfigError, match=message):
        expand_grid(overrides)


def test_an_invalid_point_among_others_carries_its_error():
    good, bad = expand_grid(["model=vit_tiny", "model.embed_dim=96,100"])
    assert (good.model, good.error) == ("vit_tiny embed_dim=96", None)
    assert (bad.model, bad.attention) == ("vit_tiny embed_dim=100", "additive")
    assert "use embed_dim=99" in str(bad.error)


@pytest.mark.parametrize("override", ["attention=additiv", "model.embed_dm=3"])
def test_hydra_refuses_unknown_options_and_keys(override):
    with pytest.raises(ConfigCompositionException):
        expand_grid([override])
