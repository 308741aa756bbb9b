import pytest
from hydra import compose, initialize_config_dir
from hydra.core.config_store import ConfigStore
from lightning import Trainer

from fvit import attention
from fvit.config.errors import ConfigError, RunError, explain
from fvit.config.paths import conf_dir


def _caught(function):
    try:
        function()
    except Exception as error:
        return error
    raise AssertionError("nothing was raised")


def test_our_own_value_error_is_a_message():
    assert explain(_caught(lambda: attention.get("addtive"))).startswith("unknown attention 'addtive', did you mean")


@pytest.mark.parametrize("kind", [ConfigError, RunError])
def test_our_error_classes_are_messages(kind):
    assert explain(kind("what to do")) == "what to do"


def test_what_lightning_calls_a_misconfiguration_is_a_message():
    assert "should be an int" in explain(_caught(lambda: Trainer(check_val_every_n_epoch=0.5)))


def test_a_value_error_of_somebody_else_is_a_bug():
    assert explain(_caught(lambda: int("x"))) is None
    assert explain(_caught(lambda: 1 / 0)) is None


def test_a_folder_that_cannot_be_made_is_named(tmp_path):
    (tmp_path / "file").write_text("")
    message = explain(_caught((tmp_path / "file" / "run").mkdir))
    assert str(tmp_path / "file") in message
    assert "hydra.run.dir=DIR" in message


@pytest.mark.parametrize(
    ("override", "message"),
    [
        ("attention=additiv", "attention=additiv is no option, did you mean additive"),
        ("model=vit_tinny", "did you mean vit_tiny"),
        ("trainer.max_epoch=1", "unknown key trainer.max_epoch, did you mean max_epochs"),
        ("data.root=DIR", "unknown key data.root: the chosen option of data has no root, which another one may have"),
        ("experimnt=quickstart", "unknown key experimnt, did you mean experiment"),
        ("attention=", "attention= is no option; known: additive, "),
        ("logger=null", "logger=null: logger takes the name of one of its options, which `fvit-train --help` lists"),
        ("model=3", "model=3: model takes the name of one of its options"),
    ],
)
def test_hydras_errors_name_the_nearest(override, message):
    def make():
        with initialize_config_dir(str(conf_dir()), version_base="1.3"):
            compose("train", overrides=[override])

    explained = explain(_caught(make))
    assert message in explained
    assert "+" not in explained


@pytest.mark.parametrize(
    ("override", "message"),
    [
        ("title=Größe", "title=Größe cannot be read as KEY=VALUE in Hydra's grammar; if the value is a text or a path"),
        ("ckpt_path=a=b", "write \"ckpt_path='a=b'\""),
        ("additive", "'additive' is no override: write KEY=VALUE"),
    ],
)
def test_what_hydra_cannot_read_is_answered_with_how_to_quote_it(override, message):
    def make():
        with initialize_config_dir(str(conf_dir()), version_base="1.3"):
            compose("train", overrides=[override])

    assert message in explain(_caught(make))


def test_a_launcher_that_is_not_installed_is_named_with_the_extra_that_brings_it(monkeypatch):
    def make():
        with initialize_config_dir(str(conf_dir()), version_base="1.3"):
            monkeypatch.delitem(ConfigStore.instance().repo["hydra"]["launcher"], "submitit_local.yaml")
            compose("train", overrides=["hydra/launcher=submitit_local"])

    assert explain(_caught(make)).endswith("pip install 'fvit[submitit]'")
