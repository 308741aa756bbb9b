import errno
import io
import json
import os
import pickle
import zipfile

import numpy as np
import pytest
import timm
import torch
from hydra import compose, initialize_config_dir

from fvit.config import validation
from fvit.config.paths import conf_dir
from fvit.config.schemas.eval import Eval
from fvit.eval import evaluate
from fvit.training import Classifier, checkpoint

from .fitting import DIGITS, FAKE, Probe, fit

SAVED = (*FAKE, "logger=none", "trainer.max_epochs=2", "+trainer.limit_train_batches=1")
IMAGES = torch.randn(3, 3, 32, 32, generator=torch.Generator().manual_seed(0))

ATTENTIONS = {
    "additive": ["attention=additive"],
    "mixed with options": ["attention=mixed", "model.attention.layers=[{name: additive, value: separate}, identity]"],
    "native": ["attention=native"],
}


def with_weights(path, target, weights):
    """A copy of a checkpoint with other weights of its model."""
    content = torch.load(path, weights_only=True)
    torch.save({**content, "state_dict": {f"model.{name}": weight for name, weight in weights.items()}}, target)
    return target


def module(config):
    options = (config[group] for group in ("optimizer", "scheduler", "loss"))
    return Classifier(config["model"], config["data"]["img_size"], 10, *options)


def leaves(value):
    """Everything that is not a plain container, recursively."""
    if type(value) is dict:
        assert all(type(key) is str for key in value)
        return [leaf for item in value.values() for leaf in leaves(item)]
    if type(value) in (list, tuple):
        return [leaf for item in value for leaf in leaves(item)]
    return [value]


def evaluation(path, folder, *overrides):
    with initialize_config_dir(str(conf_dir()), version_base="1.3"):
        config = compose("eval", overrides=[f"ckpt_path={path}", f"output_dir={folder}", *overrides])
    return evaluate(validation.check(config, Eval))


# What it contains.


@pytest.mark.parametrize(
    "attention",
    ["mixed with options", *(pytest.param(name, marks=pytest.mark.slow) for name in ("additive", "native"))],
)
def test_checkpoint_is_self_contained(compose_config, tmp_path, attention):
    probe = fit(compose_config(*SAVED, *ATTENTIONS[attention]))
    path = tmp_path / "run" / "checkpoints" / "last.ckpt"
    content = torch.load(path, weights_only=True)
    assert content["state_dict"].keys() == probe.module.state_dict().keys()

    loaded = Classifier.load_from_checkpoint(path)
    assert loaded.hparams["model"]["attention"] == probe.module.hparams["model"]["attention"]
    with torch.no_grad():
        assert torch.equal(loaded.eval()(IMAGES), probe.module.eval()(IMAGES))


def test_hyperparameters_are_plain(compose_config, tmp_path):
    fit(compose_config(*SAVED, "augment=deit3", *ATTENTIONS["mixed with options"]))
    content = torch.load(tmp_path / "run" / "checkpoints" / "last.ckpt", weights_only=True)
    for key in ("hyper_parameters", "datamodule_hyper_parameters"):
        found = leaves(content[key])
        assert len(found) > 10, "there is something to check"
        assert {type(leaf) for leaf in found} <= {str, int, float, bool, type(None)}
    json.dumps([content["hyper_parameters"], content["datamodule_hyper_parameters"], content["metrics"]])


def test_loading_downloads_nothing(compose_config, tmp_path, monkeypatch):
    asked = []
    create_model = timm.create_model

    def without_network(*args, pretrained=False, **kwargs):
        asked.append(pretrained)
        return create_model(*args, pretrained=False, **kwargs)

    monkeypatch.setattr(timm, "create_model", without_network)
    config = compose_config(*SAVED, "model.pretrained=true")
    probe = fit(config)
    assert True in asked
    # Saving changes neither of these.
    assert probe.module.hparams["model"]["pretrained"] is config["model"]["pretrained"] is True
    asked.clear()

    path = tmp_path / "run" / "checkpoints" / "last.ckpt"
    assert torch.load(path, weights_only=True)["hyper_parameters"]["model"]["pretrained"] is False
    Classifier.load_from_checkpoint(path)
    assert asked == [False]


@pytest.mark.slow
def test_compiling_renames_no_weight(compose_config):
    plain = module(compose_config(*FAKE))
    names = list(plain.state_dict())
    plain.model.compile()
    assert list(plain.state_dict()) == names
    assert all("_orig_mod" not in name for name in names)


def test_evaluation_gives_the_recorded_metrics(compose_config, tmp_path):
    fit(compose_config(*DIGITS, "logger=none", "trainer.max_epochs=2", "+trainer.limit_train_batches=4"))
    for name in ("best", "last"):
        path = tmp_path / "run" / "checkpoints" / f"{name}.ckpt"
        recorded = torch.load(path, weights_only=True)["metrics"]
        metrics = evaluation(path, tmp_path / f"eval-{name}")
        of_training, of_evaluation = (
            {"val/acc1", "val/acc5", "val/loss"},
            {"val/balanced_acc", "val/macro_f1", "val/ece"},
        )
        assert set(metrics) == of_training | of_evaluation
        assert {key: metrics[key] for key in of_training} == {key: recorded[key] for key in of_training}


class Weights(Probe):
    """Copies the weights after each update."""

    def __init__(self):
        super().__init__()
        self.history = []

    def on_train_batch_end(self, trainer, module, outputs, batch, batch_idx):
        self.history.append({name: weight.detach().clone() for name, weight in module.state_dict().items()})


def test_ema_validates_and_saves_the_average(compose_config, tmp_path):
    ema = ("callbacks=[default,ema]", "callbacks.ema.decay=0.5", "optimizer.lr=1e-2", "augment=none")
    short = ("logger=none", "trainer.max_epochs=2", "+trainer.limit_train_batches=4")
    probe = fit(compose_config(*DIGITS, *ema, *short), Weights())
    path = tmp_path / "run" / "checkpoints" / "last.ckpt"
    content = torch.load(path, weights_only=True)
    assert len(probe.history) == 8

    raw = probe.history[-1]
    average = {name: weight.double() for name, weight in probe.history[0].items()}
    for update, weights in enumerate(probe.history[1:], start=1):
        decay = min(0.5, 1 - (1 + update) ** (-2 / 3))
        average = {name: decay * average[name] + (1 - decay) * weights[name].double() for name in average}
    assert content["state_dict"].keys() == content["current_model_state"].keys() == raw.keys()
    for name in raw:
        assert torch.equal(content["current_model_state"][name], raw[name])
        torch.testing.assert_close(content["state_dict"][name].double(), average[name], rtol=0, atol=1e-6)
    assert (content["state_dict"]["model.head.weight"] - raw["model.head.weight"]).abs().max() > 1e-3

    loaded = Classifier.load_from_checkpoint(path).state_dict()
    assert all(torch.equal(loaded[name], content["state_dict"][name]) for name in loaded)
    metrics = evaluation(path, tmp_path / "eval")
    assert metrics["val/acc1"] == content["metrics"]["val/acc1"]
    assert metrics["val/loss"] == content["metrics"]["val/loss"]
    weights = {name.removeprefix("model."): weight for name, weight in raw.items()}
    assert (
        probe.metrics["val_raw/acc1"]
        == evaluation(with_weights(path, tmp_path / "raw.ckpt", weights), tmp_path / "raw")["val/acc1"]
    )
    # The run ends with the average as well, and its last metrics are those of the average.
    assert metrics["val/loss"] == probe.metrics["val/loss"]
    assert all(torch.equal(probe.module.state_dict()[name], loaded[name]) for name in loaded)


def test_longer_run_resumes_on_its_own_schedule(compose_config, tmp_path):
    """As a finished run suggests: ckpt_path=…/last.ckpt trainer.max_epochs=…"""
    rates = ("optimizer.lr=2e-3", "scheduler.min_lr=1e-5")
    fit(compose_config(*SAVED, *rates))
    longer = (*SAVED, *rates, "trainer.max_epochs=4")
    whole = fit(compose_config(*longer, "callbacks=none"))
    probe = fit(compose_config(*longer, f"ckpt_path={tmp_path / 'run' / 'checkpoints' / 'last.ckpt'}"))
    assert probe.trainer.global_step == whole.trainer.global_step == 4
    assert len(probe.rates) == 2
    assert [rate for rate, *_ in probe.rates] == pytest.approx([rate for rate, *_ in whole.rates[2:]])


# Finding one.


def touch(folder, *names):
    for name in names:
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).write_bytes(b"")
    return folder


@pytest.mark.parametrize(
    ("names", "expected"),
    [
        (["checkpoints/best.ckpt", "checkpoints/last.ckpt"], "checkpoints/best.ckpt"),
        (["checkpoints/last.ckpt"], "checkpoints/last.ckpt"),
        (["best.ckpt", "last.ckpt"], "best.ckpt"),
        (["last.ckpt", "other.ckpt"], "last.ckpt"),
    ],
    ids=str,
)
def test_run_directory_gives_its_best_else_its_last(tmp_path, names, expected):
    assert checkpoint.find(touch(tmp_path, *names)) == tmp_path / expected
    assert checkpoint.find(str(tmp_path)) == tmp_path / expected


def test_resuming_takes_the_last_else_the_best(tmp_path):
    touch(tmp_path, "checkpoints/best.ckpt")
    assert checkpoint.find(tmp_path, prefer="last").name == "best.ckpt"
    touch(tmp_path, "checkpoints/last.ckpt")
    assert checkpoint.find(tmp_path, prefer="last").name == "last.ckpt"


def test_file_is_itself(tmp_path, monkeypatch):
    touch(tmp_path, "any.name", "checkpoints/best.ckpt")
    assert checkpoint.find(tmp_path / "any.name") == tmp_path / "any.name"
    monkeypatch.setenv("HOME", str(tmp_path))
    assert checkpoint.find("~/any.name") == tmp_path / "any.name"


def test_missing_path_is_named(tmp_path):
    with pytest.raises(FileNotFoundError, match=f"ckpt_path={tmp_path}/absent does not exist"):
        checkpoint.find(tmp_path / "absent")


def test_directory_without_a_checkpoint_is_named(tmp_path):
    touch(tmp_path, "config.yaml", "checkpoints/epoch.ckpt")
    with pytest.raises(FileNotFoundError, match=r"has no checkpoint: neither checkpoints/best\.ckpt nor last\.ckpt"):
        checkpoint.find(tmp_path)
    touch(tmp_path, ".metadata", "__0_0.distcp")
    with pytest.raises(ValueError, match=r"is a checkpoint in shards .*: make it one file with python .*dcp_to_torch"):
        checkpoint.find(tmp_path)


# Reading one.


def saved(content):
    buffer = io.BytesIO()
    torch.save(content, buffer)
    return buffer.getvalue()


OURS = {
    "state_dict": {"weight": torch.arange(5000.0)},
    "hyper_parameters": {"model": {"name": "x"}, "img_size": 32, "num_classes": 2},
}


def refused(path, data):
    path.write_bytes(data)
    with pytest.raises((ValueError, FileNotFoundError)) as caught:
        checkpoint.read(path)
    assert str(path) in str(caught.value)
    assert "\n" not in str(caught.value), "one line"
    return str(caught.value)


def test_intact_file_is_read(tmp_path):
    (tmp_path / "a.ckpt").write_bytes(saved(OURS))
    content = checkpoint.read(tmp_path / "a.ckpt")
    assert torch.equal(content["state_dict"]["weight"], OURS["state_dict"]["weight"])
    assert content["hyper_parameters"] == OURS["hyper_parameters"]


@pytest.mark.parametrize("size", [0, 1, 22, 100, 400, 5000, 19000, -1])
def test_truncated_file_is_refused(tmp_path, size):
    data = saved(OURS)[:size]
    message = refused(tmp_path / "a.ckpt", data)
    assert "is truncated: it has no intact end" in message if data else "is empty" in message


def test_text_with_any_first_byte_is_refused(tmp_path):
    """torch would take them for pickles, where each byte is another instruction that fails in another way."""
    for byte in range(256):
        refused(tmp_path / "a.ckpt", bytes([byte]) + b" other\n")


class Malicious:
    def __init__(self, path):
        self.path = path

    def __reduce__(self):
        return os.mkdir, (str(self.path),)


@pytest.mark.parametrize("kind", ["torch.save", "pickle"])
def test_code_in_a_file_is_not_executed(tmp_path, kind):
    content = {**OURS, "hyper_parameters": Malicious(tmp_path / "executed")}
    data = saved(content) if kind == "torch.save" else pickle.dumps(content["hyper_parameters"], protocol=2)
    refused(tmp_path / "a.ckpt", data)
    assert not (tmp_path / "executed").exists()
    (torch.load(tmp_path / "a.ckpt", weights_only=False) if kind == "torch.save" else pickle.loads(data))
    assert (tmp_path / "executed").exists(), "it would have been"


@pytest.mark.parametrize("member", ["notes.txt", "archive/data.pkl"])
def test_other_zip_is_refused(tmp_path, member):
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w") as archive:
        archive.writestr(member, "some text")
    refused(tmp_path / "a.zip", buffer.getvalue())


WEIGHTS = {"head.weight": torch.zeros(3, 2), "head.bias": torch.zeros(3)}


@pytest.mark.parametrize(
    ("content", "kind"),
    [
        ({"state_dict": {}}, "a dict of state_dict"),
        ({}, "a dict of nothing"),
        ([1], "a list"),
        (torch.zeros(2), "a single tensor of shape [2]"),
        (
            WEIGHTS,
            "a state dict of 2 weights (head.weight, head.bias); a run can start from its weights: model.init_from=",
        ),
        ({"epoch": 1, "state_dict_ema": WEIGHTS}, "a dict of epoch, state_dict_ema; a run can start from its weights"),
        ({"pytorch-lightning_version": "2", "state_dict": WEIGHTS}, "a Lightning checkpoint of another project; a run"),
        ({"state_dict": WEIGHTS, "hyper_parameters": {"lr": 1}}, "a dict of state_dict, hyper_parameters; a run can"),
        (
            {"state_dict": WEIGHTS, "hyper_parameters": {"model": {"name": "a"}}},
            "a dict of state_dict, hyper_parameters",
        ),
    ],
    ids=str,
)
def test_file_of_another_project_is_refused_with_what_it_is(tmp_path, content, kind):
    assert f"is not an fvit checkpoint but {kind}" in refused(tmp_path / "a.pt", saved(content))


def test_its_path_can_be_pasted(tmp_path):
    path = tmp_path / "their weights.pt"
    assert refused(path, saved(WEIGHTS)).endswith(f""" "model.init_from='{path}'\"""")


@pytest.mark.parametrize(
    "prefix",
    ["_orig_mod.", "module.", "module._orig_mod.", "_orig_mod.module.", "model._orig_mod.", "_forward_module."],
)
def test_names_of_a_wrapped_model_are_those_of_the_model(tmp_path, prefix):
    wrapped = prefix if "model" in prefix.split(".") else f"{prefix}model."
    torch.save({**OURS, "state_dict": {f"{wrapped}head.bias": torch.ones(2)}}, tmp_path / "a.ckpt")
    assert list(checkpoint.read(tmp_path / "a.ckpt")["state_dict"]) == ["model.head.bias"]


@pytest.mark.slow
def test_run_resumes_and_evaluates_from_a_wrapped_checkpoint_with_numbers_of_numpy(compose_config, tmp_path):
    fit(compose_config(*SAVED))
    path = tmp_path / "run" / "checkpoints" / "last.ckpt"
    content = torch.load(path, weights_only=True)
    metrics = {name: np.float32(value) for name, value in content["metrics"].items()} | {"val/f1": 0.5}
    wrapped = {name.replace("model.", "model._orig_mod.", 1): weight for name, weight in content["state_dict"].items()}
    torch.save({**content, "state_dict": wrapped, "metrics": metrics}, path)
    assert evaluation(path, tmp_path / "eval")["val/loss"] == pytest.approx(content["metrics"]["val/loss"], rel=1e-6)
    assert fit(compose_config(*SAVED, "trainer.max_epochs=3", f"ckpt_path={path}")).trainer.global_step == 3
    assert torch.load(path, weights_only=True)["metrics"]["val/f1"] == 0.5, "a metric that only the first start had"
    assert Classifier.load_from_checkpoint(path, weights_only=False).state_dict().keys() == content["state_dict"].keys()


# Comparing it with a model.


def _content(classifier):
    return {"state_dict": classifier.state_dict(), "hyper_parameters": dict(classifier.hparams)}


@pytest.mark.parametrize(
    ("overrides", "first"),
    [
        (["model.embed_dim=48"], r"model\.blocks\.0\.attn\.k\.bias: \(24,\) in the file, \(48,\) here"),
        (["model.depth=3"], r"model\.blocks\.2\.attn\.k\.bias: None in the file, \(24,\) here"),
        (["attention=softmax"], r"model\.blocks\.0\.attn\.k\.bias: \(24,\) in the file, None here"),
        (["attention=identity"], r"model\.blocks\.0\.attn\.k\.bias: \(24,\) in the file, None here"),
        (["model.num_classes=12"], r"model\.head\.bias: \(10,\) in the file, \(12,\) here"),
    ],
    ids=str,
)
def test_another_model_is_refused_with_the_names_of_its_weights(compose_config, tmp_path, overrides, first):
    content = _content(module(compose_config(*FAKE)))
    with pytest.raises(ValueError, match=f"does not fit .*{first}.*config.yaml in the run directory") as caught:
        checkpoint.check_fits(content, tmp_path / "a.ckpt", module(compose_config(*FAKE, *overrides)))
    assert str(tmp_path / "a.ckpt") in str(caught.value)
    assert str(caught.value).count("in the file") <= 3


@pytest.mark.parametrize("attention", ATTENTIONS)
def test_same_model_fits(compose_config, tmp_path, attention):
    config = compose_config(*FAKE, *ATTENTIONS[attention])
    checkpoint.check_fits(_content(module(config)), tmp_path, module(config))


def test_training_refuses_a_checkpoint_of_another_width_or_attention(compose_config, tmp_path):
    """Softmax and linear attention have weights of the same names and shapes."""
    fit(compose_config(*SAVED, "attention=softmax"))
    path = tmp_path / "run" / "checkpoints" / "last.ckpt"
    with pytest.raises(ValueError, match=f"{path} does not fit the configured model"):
        fit(compose_config(*SAVED, "attention=softmax", "model.embed_dim=48", f"ckpt_path={path}"))
    with pytest.raises(ValueError, match="attention"):
        fit(compose_config(*SAVED, "attention=linear", "trainer.max_epochs=3", f"ckpt_path={path}"))


# Writing one.


def steps(folder):
    return {path.name: torch.load(path, weights_only=True)["step"] for path in folder.iterdir()}


def test_last_checkpoint_keeps_its_predecessor(tmp_path):
    for step in range(4):
        for name in ("last.ckpt", "best.ckpt"):
            checkpoint.AtomicCheckpointIO().save_checkpoint({"step": step}, tmp_path / "new" / name)
    assert steps(tmp_path / "new") == {"best.ckpt": 3, "last.ckpt": 3, "previous.ckpt": 2}


@pytest.mark.parametrize("failing", ["save", "fsync"])
def test_old_checkpoints_stay_until_the_new_one_is_complete(tmp_path, monkeypatch, failing):
    writer = checkpoint.AtomicCheckpointIO()
    for step in range(2):
        writer.save_checkpoint({"step": step}, tmp_path / "last.ckpt")

    def fail(*args):
        assert any(path.name.startswith("last.ckpt.") for path in tmp_path.iterdir())
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(*((torch, "save") if failing == "save" else (os, "fsync")), fail)
    with pytest.raises(OSError, match="No space left"):
        writer.save_checkpoint({"step": 2}, tmp_path / "last.ckpt")
    assert steps(tmp_path) == {"last.ckpt": 1, "previous.ckpt": 0}


def test_leftover_of_a_killed_process_is_removed(tmp_path):
    (tmp_path / "last.ckpt.1234.partial").write_bytes(b"half")
    checkpoint.AtomicCheckpointIO().save_checkpoint({"step": 1}, tmp_path / "last.ckpt")
    assert steps(tmp_path) == {"last.ckpt": 1}
