"""Checkpoints for images of another size than in training."""

import copy
import logging

import pytest
import torch

from fvit.callbacks.ema import EMA
from fvit.config.legacy import FORMAT
from fvit.launch import resume
from fvit.training import Classifier, checkpoint
from fvit.training.resizing import resize_checkpoint
from fvit.training.sharding import numbered_by_model
from tests.models.small import resampling

from .fitting import FAKE, Probe, fit

SHAPE = dict(patch_size=8, embed_dim=24, depth=2, num_heads=3)
VIT = "vit_tiny_patch16_224"


def classifier(name, attention, img_size, opt="adamw", **options):
    torch.manual_seed(1)
    options |= {"rel_pos_type": "bias"} if "relpos" in name else {}
    model = {"name": name, "attention": {"name": attention}, **SHAPE, **options}
    optimizer = {"opt": opt, "lr": 1e-3, "weight_decay": 0.05, "layer_decay": 0.75}
    return Classifier(model=model, img_size=img_size, num_classes=5, optimizer=optimizer)


def trained(module):
    """A checkpoint after two steps on images of its size, with an average of the weights."""
    optimizer = module.build_optimizer()
    average = copy.deepcopy(module.state_dict())
    for _ in range(2):
        images = torch.randn(4, 3, *module.hparams.img_size)
        torch.nn.functional.cross_entropy(module(images), torch.arange(4)).backward()
        optimizer.step()
    return {
        "state_dict": average,
        "current_model_state": copy.deepcopy(module.state_dict()),
        "optimizer_states": [numbered_by_model(copy.deepcopy(optimizer.state_dict()), optimizer, module)],
        "hyper_parameters": copy.deepcopy(dict(module.hparams)),
        "format": FORMAT,
    }


@resampling
@pytest.mark.parametrize(
    ("name", "attention", "part"),
    [
        (VIT, "gmlp", "attn.spatial.bias"),
        (VIT, "linformer", "attn.key_projection.weight"),
        ("beit_base_patch16_224", "native", "attn.relative_position_bias_table"),
        ("beit_base_patch16_224", "softmax", "attn.rel_pos.relative_position_bias_table"),
        ("vit_relpos_small_patch16_224", "native", "attn.rel_pos.relative_position_bias_table"),
    ],
)
def test_weights_are_those_of_init_from_and_all_else_stays(name, attention, part, tmp_path):
    content = trained(classifier(name, attention, (48, 32)))
    before = copy.deepcopy(content)
    new = classifier(name, attention, (32, 64))
    own = {key: weight.clone() for key, weight in new.state_dict().items()}
    resampled = resize_checkpoint(content, new)
    assert all(torch.equal(own[key], weight) for key, weight in new.state_dict().items()), "the module is unchanged"
    for key in ("state_dict", "current_model_state"):
        torch.save({**before, "state_dict": before[key]}, tmp_path / "a.ckpt")
        started = classifier(name, attention, (32, 64), init_from=str(tmp_path / "a.ckpt")).state_dict()
        assert content[key].keys() == started.keys()
        assert all(torch.equal(content[key][name], weight) for name, weight in started.items())
        assert {n for n, _ in new.named_parameters() if not torch.equal(before[key][n], started[n])} == {*resampled}
    assert any(part in name for name in resampled)
    assert ("model.pos_embed" in resampled) == (name == VIT)
    names = [name for name, _ in new.named_parameters()]
    [had], [has] = before["optimizer_states"], content["optimizer_states"]
    assert {names[number] for number in had["state"]} >= {*resampled}
    assert {names[number] for number in has["state"]} == {names[number] for number in had["state"]} - {*resampled}
    assert has["param_groups"] == had["param_groups"]
    for number, state in has["state"].items():
        assert state.keys() == had["state"][number].keys()
        assert all(torch.equal(value, had["state"][number][key]) for key, value in state.items())


@pytest.mark.parametrize("opt", ["adamw", "sgd", "lamb", "lion", "muon"])
def test_optimizers_begin_anew_with_what_is_resampled(opt):
    """Each accepts a state that lacks some parameters, and then has one of all."""
    content = trained(classifier(VIT, "gmlp", (48, 32), opt))
    new = classifier(VIT, "gmlp", (32, 64), opt)
    resampled = resize_checkpoint(content, new)
    new.load_state_dict(content["current_model_state"])
    optimizer = new.build_optimizer()
    optimizer.load_state_dict(content["optimizer_states"][0])
    found = [p for group in optimizer.param_groups for p in group["params"] if not optimizer.state[p]]
    assert {id(p) for p in found} == {id(p) for name, p in new.named_parameters() if name in resampled}
    new(torch.randn(4, 3, 32, 64)).square().mean().backward()
    optimizer.step()
    for parameter in found:
        assert parameter.isfinite().all()
        moments = [value for value in optimizer.state[parameter].values() if isinstance(value, torch.Tensor)]
        assert all(moment.shape in (parameter.shape, ()) for moment in moments)


def test_a_size_that_it_has_changes_nothing():
    content = trained(classifier(VIT, "gmlp", (32, 32)))
    before = dict(content)
    assert resize_checkpoint(content, classifier(VIT, "gmlp", 32)) == []
    assert all(content[key] is before[key] for key in before)


def test_a_model_without_positions_continues_with_all_of_its_state():
    options = dict(name=VIT, attention="linear", pos_embed="none")
    content = trained(classifier(**options, img_size=(48, 32)))
    before = copy.deepcopy(content)
    assert resize_checkpoint(content, classifier(**options, img_size=64)) == []
    assert content["optimizer_states"][0]["state"].keys() == before["optimizer_states"][0]["state"].keys()
    assert all(torch.equal(content["state_dict"][name], weight) for name, weight in before["state_dict"].items())


# Runs that continue. Lightning says that the best score stays with the directory of the first run.
elsewhere = pytest.mark.filterwarnings("ignore:The dirpath has changed from")


class Start(Probe):
    """Copies what a run begins with."""

    def on_train_start(self, trainer, module):
        self.epoch, self.step = trainer.current_epoch, trainer.global_step
        [ema] = [callback for callback in trainer.callbacks if isinstance(callback, EMA)]
        self.weights = copy.deepcopy(module.state_dict())
        self.average = copy.deepcopy(ema._average_model.module.state_dict())
        self.updates = ema._updates
        names = {id(parameter): name for name, parameter in module.named_parameters()}
        self.state = {names[id(p)]: copy.deepcopy(value) for p, value in trainer.optimizers[0].state.items()}


AVERAGED = (*FAKE, "attention=gmlp", "logger=none", "callbacks=[default,ema]", "+trainer.limit_train_batches=3")


@elsewhere
def test_a_new_run_continues_with_larger_images(compose_config, tmp_path, caplog):
    first = fit(compose_config(*AVERAGED))
    run, new = tmp_path / "run", tmp_path / "new"
    saved = checkpoint.read(run / "checkpoints" / "last.ckpt")
    caplog.set_level(logging.INFO)
    options = (*AVERAGED, "data.img_size=48", "trainer.max_epochs=2", f"output_dir={new}")
    probe = fit(resume.find_checkpoint(compose_config(*options, f"ckpt_path={run}")), Start())
    assert (probe.epoch, probe.step, probe.trainer.global_step) == (1, 3, 6)
    [said] = [record.message for record in caplog.records if "begins anew" in record.message]
    assert said.startswith("images of 48 px instead of 32 px: the optimizer's state begins anew for the resampled ")
    assert "model.pos_embed, model.blocks.*.attn." in said

    started = compose_config(*options, f"model.init_from={run / 'checkpoints' / 'last.ckpt'}")
    expected = Classifier(started["model"], 48, 10).state_dict()
    assert probe.average.keys() >= expected.keys()
    assert all(torch.equal(probe.average[name], weight) for name, weight in expected.items()), "the average is saved"
    kept = {name for name, weight in saved["current_model_state"].items() if weight.shape == expected[name].shape}
    kept = {name for name in kept if not name.endswith("_extra_state")}
    assert all(torch.equal(probe.weights[name], saved["current_model_state"][name]) for name in kept)
    assert probe.updates == saved["callbacks"]["EMA"]["updates"] == 3

    names = [name for name, _ in first.module.named_parameters()]
    had = {names[number]: state for number, state in saved["optimizer_states"][0]["state"].items()}
    assert probe.state.keys() == had.keys() & kept
    assert 0 < len(probe.state) < len(had)
    for name, state in probe.state.items():
        assert all(torch.equal(value, had[name][key]) for key, value in state.items())
    after = checkpoint.read(new / "checkpoints" / "last.ckpt")
    assert after["hyper_parameters"]["img_size"] == after["datamodule_hyper_parameters"]["img_size"] == 48
    assert len(after["optimizer_states"][0]["state"]) == len(had)
    assert probe.metrics["val/loss"] < 5


@elsewhere
@pytest.mark.slow
def test_a_run_that_has_continued_resumes_in_its_own_directory(compose_config, tmp_path, caplog):
    fit(compose_config(*AVERAGED))
    options = (*AVERAGED, "data.img_size=48", f"output_dir={tmp_path / 'new'}")
    fit(resume.find_checkpoint(compose_config(*options, "trainer.max_epochs=2", f"ckpt_path={tmp_path / 'run'}")))
    caplog.clear()
    probe = fit(resume.find_checkpoint(compose_config(*options, "trainer.max_epochs=3", "ckpt_path=last")), Start())
    assert (probe.epoch, probe.step) == (2, 6)
    assert "begins anew" not in caplog.text
    with pytest.raises(ValueError, match=r"images of another size: data\.img_size=32"):
        resume.find_checkpoint(compose_config(*options, "data.img_size=32", "ckpt_path=last"))


def test_a_run_keeps_its_size_in_its_directory(compose_config, tmp_path):
    fit(compose_config(*FAKE, "logger=none", "+trainer.limit_train_batches=1"))
    run = tmp_path / "run"
    for path in (run, run / "checkpoints" / "last.ckpt", "last"):
        with pytest.raises(ValueError, match="in its directory with images of another size") as refused:
            resume.find_checkpoint(compose_config(*FAKE, "data.img_size=64", f"ckpt_path={path}"))
        assert "data.img_size=64 (was 32). " in str(refused.value)
        assert f"let a new run continue it (ckpt_path={run} hydra.run.dir=DIR), or" in str(refused.value)


def test_weights_that_cannot_be_resampled_are_refused_before_the_run(tmp_path):
    """ViP's, and those that FSDP loads in place."""
    vip = dict(embed_dims=[16, 32], depths=[1, 1], segment_dims=[2, 8])
    saved, other = (
        Classifier({"name": "vip_small7", **vip}, (side, side), 5, optimizer={"opt": "adamw", "lr": 1e-3})
        for side in (28, 56)
    )
    torch.save(trained(saved), tmp_path / "vip.ckpt")
    with pytest.raises(ValueError, match="weights, for images of 28 px, do not fit the model"):
        checkpoint.find_resumable(tmp_path / "vip.ckpt", other)
    torch.save(trained(classifier(VIT, "linear", (32, 32))), tmp_path / "vit.ckpt")
    other = classifier(VIT, "linear", 64)
    with pytest.raises(ValueError, match=r"32 px, and FSDP loads them .* hardware=ddp, or .* model\.init_from="):
        checkpoint.find_resumable(tmp_path / "vit.ckpt", other, sharded=True)
    assert checkpoint.find_resumable(tmp_path / "vit.ckpt", other) == str(tmp_path / "vit.ckpt")
