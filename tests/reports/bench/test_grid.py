import pytest
from hydra import compose, initialize_config_dir
from hydra.errors import ConfigCompositionException

from fvit.config.errors import ConfigError
from fvit.config.paths import conf_dir
from fvit.config.schemas.bench import Bench
from fvit.reports.bench.grid import compose_cell, expand, gather

OWN = Bench.model_fields


@pytest.fixture(autouse=True)
def hydra():
    with initialize_config_dir(str(conf_dir()), version_base="1.3"):
        yield


def names(*overrides):
    return [(cell.model, cell.attention) for cell in expand(overrides)]


@pytest.mark.parametrize(
    ("arguments", "gathered"),
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
def test_the_command_line_is_sorted(arguments, gathered):
    assert gather(arguments, OWN) == gathered


@pytest.mark.parametrize("flag", ["-m", "--multirun"])
def test_a_multirun_is_refused(flag):
    with pytest.raises(ConfigError, match=f"{flag} would measure apart what is to be compared; leave it out"):
        gather([flag, "attention=additive,softmax"], OWN)


def test_what_is_gathered_comes_back_whole():
    texts = ["attention=a,b", "model.a='b c'", r"model.b=C:\d", "model.name=[a,b]", "model.c=\\", r"model.d='\'\\'"]
    assert compose("bench", overrides=gather(texts, OWN)).candidates == texts


def test_commas_and_lists_span_a_grid():
    assert names("attention=additive,softmax", "model=vit_tiny,vit_small") == [
        ("vit_tiny", "additive"),
        ("vit_small", "additive"),
        ("vit_tiny", "softmax"),
        ("vit_small", "softmax"),
    ]
    assert names("model=timm", "model.name=[fastvit_t8,resnet18]") == [("fastvit_t8", "native"), ("resnet18", "native")]


def test_names_are_those_of_the_options():
    assert names("attention=focused_flatten") == [("vit_atto", "focused_flatten")]
    assert names("model=vit_tiny") == [("vit_tiny", "additive")]
    assert names("model=vit_tiny", "model.name=deit3_small_patch16_224") == [("deit3_small_patch16_224", "additive")]


def test_what_else_varies_stands_in_the_names():
    assert names("model=vit_tiny", "model.depth=6,12", "model.num_heads=3") == [
        ("vit_tiny depth=6", "additive"),
        ("vit_tiny depth=12", "additive"),
    ]
    assert names("model.attention.form=textbook,auto") == [
        ("vit_atto", "additive form=textbook"),
        ("vit_atto", "additive form=auto"),
    ]
    assert names("model.depth=range(2,5,2)") == [("vit_atto depth=2", "additive"), ("vit_atto depth=4", "additive")]


def test_a_glob_spans_the_options_that_it_fits():
    assert names("attention=glob(additive*)") == [("vit_atto", "additive"), ("vit_atto", "additive_fastformer")]


def test_a_cell_holds_the_options_of_the_model():
    cell = compose_cell(["model=vit_tiny", "attention=softmax", "model.depth=3", "+model.fc_norm=true"])
    assert cell.options["depth"] == 3
    assert cell.options["embed_dim"] == 192
    assert cell.options["fc_norm"] is True
    assert cell.options["attention"] == {"name": "softmax"}


def test_the_size_of_images_does_not_bear_on_it():
    """The default's images have 32 px, which patches of 14 do not divide."""
    assert compose_cell(["model.patch_size=14"]).options["patch_size"] == 14


@pytest.mark.parametrize(
    ("overrides", "message"),
    [
        (["model=timm"], "model.name must be given"),
        (["model.embed_dim=100"], "use embed_dim=99"),
        (["model.pretrained=true"], "model.pretrained=True has no effect on what a model costs"),
        (["model.match=macs"], "model.match is for training; here use match=macs to=MODEL"),
        (["model.init_from=run"], "model.init_from=run has no effect on what a model costs"),
        (["model.keep=[qkv]"], "has no effect on what a model costs"),
        (["+model.img_size=64"], "set data.img_size"),
        (["model.depth=-1"], "model.depth=-1"),
        (["attention=[additive"], r"attention=\[additive"),
        (["attention=[]"], r"attention=\[\] gives nothing to measure; name one at least"),
        (["model=timm", "model.name=[]"], r"model\.name=\[\] gives nothing to measure"),
        (["attention=glob(nosuch*)"], r"attention=glob\(nosuch\*\) gives nothing to measure"),
    ],
)
def test_what_does_not_fit_together_is_told(overrides, message):
    with pytest.raises(ConfigError, match=message):
        expand(overrides)


def test_one_of_several_that_does_not_fit_together_is_a_cell_that_says_why():
    good, bad = expand(["model=vit_tiny", "model.embed_dim=96,100"])
    assert (good.model, good.refusal) == ("vit_tiny embed_dim=96", None)
    assert (bad.model, bad.attention) == ("vit_tiny embed_dim=100", "additive")
    assert "use embed_dim=99" in str(bad.refusal)


def test_where_none_fits_together_that_is_told_at_once():
    with pytest.raises(ConfigError, match="use embed_dim=99"):
        expand(["model=vit_tiny", "model.embed_dim=100,101"])
    with pytest.raises(ConfigError, match=r"model\.name must be given"):
        expand(["model=timm", "attention=additive,softmax"])


@pytest.mark.parametrize("override", ["attention=additiv", "model.embed_dm=3"])
def test_hydra_refuses_what_it_knows(override):
    with pytest.raises(ConfigCompositionException):
        expand([override])
