"""The record of the command line that started a run."""

import pytest
import yaml

from fvit.config.errors import ConfigError
from fvit.config.recorded import model_of

FINETUNE = ("experiment=finetune", "data.root=x")
VIT = {"model": "vit_tiny", "attention": "gated"}
SHAPE = {"patch_size": 4, "embed_dim": 64, "depth": 4, "num_heads": 4, "mlp_ratio": 4.0}


@pytest.fixture
def run(tmp_path):
    """Makes a run directory with the choices, the overrides and the model of a run."""

    def make(choices, overrides, model):
        folder = tmp_path / "its run"
        (folder / ".hydra").mkdir(parents=True)
        (folder / "checkpoints").mkdir()
        (folder / "checkpoints" / "last.ckpt").touch()
        content = {"hydra": {"runtime": {"choices": choices}}}
        (folder / ".hydra" / "hydra.yaml").write_text(yaml.safe_dump(content))
        (folder / "overrides.yaml").write_text(yaml.safe_dump(list(overrides)))
        (folder / "config.yaml").write_text(yaml.safe_dump({"model": model}))
        return folder

    return make


def test_of_a_group_with_the_shape_that_an_experiment_gave(run):
    folder = run(VIT, ["+model.init_values=1e-5", "seed=1", "model.keep=[qkv]", "model.match=macs"], SHAPE)
    shape = ["model.patch_size=4", "model.embed_dim=64", "model.depth=4", "model.num_heads=4"]
    expected = ["model=vit_tiny", "attention=gated", "+model.init_values=1e-5", *shape]
    assert model_of(folder) == model_of(folder / "checkpoints" / "last.ckpt") == expected


def test_of_timm_as_it_was_typed(run):
    typed = ["model.name=deit_tiny_patch16_224", "+model.depth=2", "model.attention.layers=[additive*2]"]
    found = model_of(run({"model": "timm", "attention": "mixed"}, typed, {"name": "deit_tiny_patch16_224", "depth": 2}))
    assert found == ["model=timm", "attention=mixed", *typed[:2], f"'{typed[2]}'"]


def test_unknown_without_a_record(tmp_path):
    assert model_of(tmp_path) == model_of(tmp_path / "nowhere") == []


def test_finetuning_says_which_model_the_weights_are_of(run, compose_config):
    folder = run(VIT, [], SHAPE)
    with pytest.raises(ConfigError) as refused:
        compose_config(*FINETUNE, f"model.init_from='{folder}'")
    model = "model=vit_tiny attention=gated model.patch_size=4 model.embed_dim=64 model.depth=4 model.num_heads=4"
    assert str(refused.value) == f"model.name must be given: the model of {folder} is {model}"
    config = compose_config(*FINETUNE, "model.init_from=nowhere", *model.split())
    assert (config["model"]["name"], config["model"]["embed_dim"]) == ("vit_tiny_patch16_224", 64)
    with pytest.raises(ConfigError, match=r"^model\.name must be given: model\.name=…$"):
        # The title refers to the missing name as well.
        compose_config(*FINETUNE, "model.init_from=nowhere", "title=${model.name}")
