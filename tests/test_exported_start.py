"""Runs of a model that `fvit-export` wrote: what they are recorded as, and that only their start needs the folder."""

import shutil

import pytest
import torch
import yaml

from fvit.config.schemas.export import Export
from fvit.export import export
from fvit.reports.runs.collect import collect_runs
from fvit.reports.runs.settings import attention_of, model_of
from fvit.training import checkpoint
from tests.tasks import call, checked, trained
from tests.training.fitting import FAKE

SHORT = ("data=fake", "data.num_images=64", "global_batch_size=16", "scheduler.warmup_epochs=0", "logger=csv")


@pytest.fixture(scope="module")
def original(tmp_path_factory):
    """A run with additive attention that has an option, and the folder to which it was exported."""
    run = tmp_path_factory.mktemp("original") / "run"
    trained(run, *FAKE, "logger=none", "attention=additive", "model.attention.logits=full")
    export(checked("export", Export, f"ckpt_path={run}", "format=safetensors", f"out={run.with_name('exp')}"))
    return run


@pytest.fixture
def exported(original, tmp_path):
    """That folder, as ``exp`` in tmp_path, and its run."""
    return shutil.copytree(original.with_name("exp"), tmp_path / "exp"), original


@pytest.mark.slow
def test_the_run_has_its_attention_and_goes_on_without_the_folder(exported, tmp_path, capfd):
    folder, first = exported
    start = ("model=timm", "model.name=local-dir:exp", "model.pretrained=true", *SHORT, "hydra.run.dir=run")
    still = ("optimizer.lr=1e-30", "scheduler.min_lr=0", "optimizer.weight_decay=0")
    assert call(tmp_path, "train", *start, "trainer.max_epochs=1", *still) == 0, capfd.readouterr().err
    out = capfd.readouterr().out
    assert "local-dir:exp, additive" in out
    config = yaml.safe_load((tmp_path / "run" / "config.yaml").read_text())
    assert config["title"] == "local-dir:exp, additive"
    assert (config["model"]["name"], config["model"]["origin"]) == ("vit_tiny_patch16_224", "local-dir:exp")
    assert config["model"]["attention"]["logits"] == "full"
    [run] = [one for one in collect_runs([tmp_path]) if one.name == "run"]
    assert (attention_of(run), model_of(run)) == ("additive", "vit_tiny_patch16_224")
    weights, started = (checkpoint.read(checkpoint.find(path))["state_dict"] for path in (first, tmp_path / "run"))
    assert all(torch.allclose(started[name], weight) for name, weight in weights.items())

    shutil.rmtree(folder)
    assert call(tmp_path, "train", "ckpt_path=run", "trainer.max_epochs=2") == 0, capfd.readouterr().err
    out = capfd.readouterr().out
    assert "settings that changed: trainer.max_epochs=2 (was 1)" in out
    config = yaml.safe_load((tmp_path / "run" / "config.yaml").read_text())
    assert (config["title"], config["model"]["origin"]) == ("local-dir:exp, additive", "local-dir:exp")
    assert config["model"]["init_from"].endswith("exp/model.safetensors"), "how the run started stays recorded"
    assert checkpoint.read(tmp_path / "run" / "checkpoints" / "last.ckpt")["epoch"] == 1
    assert call(tmp_path, "eval", "ckpt_path=run") == 0, capfd.readouterr().err
    capfd.readouterr()
    assert call(tmp_path, "train", "ckpt_path=run", "trainer.max_epochs=3", "+model.drop_path_rate=0.2") == 1
    assert "cannot resume with another model or optimizer: model.drop_path_rate=0.2" in capfd.readouterr().err


@pytest.mark.parametrize(("given", "named"), [((), "additive"), (("attention=softmax",), "softmax")])
def test_the_title_has_the_attention(exported, tmp_path, capfd, given, named):
    start = ("model=timm", "model.name=local-dir:exp", "model.pretrained=true", *given)
    assert call(tmp_path, "train", *start, *SHORT, "hydra.run.dir=run", "+trainer.fast_dev_run=true") == 0
    assert f"local-dir:exp, {named}" in capfd.readouterr().out


@pytest.mark.slow
def test_a_run_of_timms_folder_goes_on_without_it(tmp_path, capfd):
    run = trained(tmp_path / "first", *FAKE, "logger=none", "attention=softmax")
    export(checked("export", Export, f"ckpt_path={run}", "format=timm", f"out={tmp_path / 'exp'}"))
    start = ("model=timm", "model.name=local-dir:exp", "model.pretrained=true", *SHORT, "hydra.run.dir=run")
    assert call(tmp_path, "train", *start, "trainer.max_epochs=1") == 0
    assert "local-dir:exp, native" in capfd.readouterr().out
    shutil.rmtree(tmp_path / "exp")
    assert call(tmp_path, "train", "ckpt_path=run", "trainer.max_epochs=2") == 0, capfd.readouterr().err
