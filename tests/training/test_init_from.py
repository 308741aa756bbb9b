"""Runs that start from the weights of another run or of a file: which are taken, and what is refused."""

import argparse
import json
from types import SimpleNamespace

import numpy as np
import pytest
import timm
import torch
from safetensors.torch import save_file
from timm.data import ImageNetInfo
from torch import nn

from fvit.train import build_module
from fvit.training import Classifier
from tests.tasks import with_classes

from .fitting import BARE, FAKE, fit

pytestmark = [
    pytest.mark.filterwarnings("ignore:Checkpoint directory .* exists and is not empty"),
]

STILL = ("optimizer.lr=1e-12", "scheduler=constant", "scheduler.warmup_epochs=0", "augment=none")
SAVED = (*FAKE, "logger=none", "trainer.max_epochs=2", "+trainer.limit_train_batches=2")


def started(config):
    """Initial weights of a run, and its summary of them."""
    module = fit(config).module
    return module.model.state_dict(), dict(module.facts())["start"], module


def test_init_from_with_another_attention_transfers_the_rest_and_the_projections_in_keep(
    compose_config, teacher_run, tmp_path
):
    source = torch.load(teacher_run / "checkpoints" / "best.ckpt", weights_only=True)["state_dict"]
    config = compose_config(*FAKE, *STILL, "logger=none", f"model.init_from={teacher_run}", "model.keep=[q,k]")
    weights, start, module = started(config)
    assert start == f"{teacher_run}: {len(source)} of {len(source)} weights loaded"
    for name in set(weights) & {name.removeprefix("model.") for name in source}:
        torch.testing.assert_close(weights[name], source[f"model.{name}"], rtol=0, atol=1e-6)
    q, k, _ = source["model.blocks.1.attn.qkv.weight"].chunk(3)
    torch.testing.assert_close(weights["blocks.1.attn.q.weight"], q, rtol=0, atol=1e-6)
    torch.testing.assert_close(weights["blocks.1.attn.k.weight"], k, rtol=0, atol=1e-6)
    assert module.model.exchange_report[1].initialised[-2:] == ("transform.weight", "transform.bias")

    path = tmp_path / "run" / "checkpoints" / "last.ckpt"
    assert torch.load(path, weights_only=True)["hyper_parameters"]["model"]["init_from"] is None
    loaded = Classifier.load_from_checkpoint(path)
    assert loaded.facts() == []
    assert all(torch.equal(weight, weights[name]) for name, weight in loaded.model.state_dict().items())


def test_init_from_with_the_same_attention_transfers_all_weights(compose_config, tmp_path):
    first = fit(compose_config(*SAVED)).module.model.state_dict()
    again = (*BARE, *STILL, f"model.init_from={tmp_path / 'run'}")
    weights, _, module = started(compose_config(*again))
    assert weights.keys() == first.keys()
    best = torch.load(tmp_path / "run" / "checkpoints" / "best.ckpt", weights_only=True)["state_dict"]
    for name, weight in weights.items():
        torch.testing.assert_close(weight, best[f"model.{name}"], rtol=0, atol=1e-6)
    assert module.model.exchange_report == ()

    # With other options, weights of another shape are initialised.
    _, start, _ = started(compose_config(*again, "model.attention.logits=full"))
    assert "initialised: blocks.*.attn.query_logit, blocks.*.attn.key_logit; unused" in start
    with pytest.raises(ValueError, match=r"keep=.* has no effect with weights of a model that has the same attention"):
        fit(compose_config(*again, "model.keep=[q]"))


def test_init_from_takes_the_rows_of_the_head_by_class_name(compose_config, teacher_run, tmp_path):
    source = torch.load(teacher_run / "checkpoints" / "best.ckpt", weights_only=True)["state_dict"]
    options = {
        key: compose_config(*BARE, "attention=softmax")[key] for key in ("model", "optimizer", "scheduler", "loss")
    }

    def head(classes, path, outputs=None):
        model = {**options["model"], "init_from": str(path), "num_classes": outputs}
        module = Classifier(**{**options, "model": model}, img_size=32, num_classes=len(classes), classes=classes)
        return module, {kind: getattr(module.model.head, kind) for kind in ("weight", "bias")}

    for names, rows, outputs in (
        (["7", "2", "9"], [7, 2, 9], 3),
        (["7", "2", "9"], [7, 2, 9], 10),
        ([str(name) for name in range(9, -1, -1)], list(range(9, -1, -1)), 10),
        (["cat", "3", "dog"], [None, 3, None], 3),
        ([*map(str, range(10)), "dog"], [*range(10), None], 11),
    ):
        module, weights = head(names, teacher_run, outputs)
        for kind, weight in weights.items():
            for place, row in enumerate(rows):
                taken = torch.equal(weight[place], source[f"model.head.{kind}"][row or 0])
                assert taken == (row is not None), (names, kind, place)
        assert f"the head's by class name, for {len(rows) - rows.count(None)} classes" in dict(module.facts())["start"]
    # Ten classes of other names: nothing of the head is taken. Without names: all of it, in its order.
    module, weights = head(list("abcdefghij"), teacher_run)
    assert "initialised: head.weight, head.bias" in dict(module.facts())["start"]
    assert not torch.equal(weights["weight"], source["model.head.weight"])
    _, weights = head(list("abcdefghij"), with_classes(teacher_run, tmp_path / "a.ckpt", None))
    assert torch.equal(weights["weight"], source["model.head.weight"])


def test_pretrained_head_has_the_order_of_the_datasets_classes(compose_config, monkeypatch):
    """ImageNet's by their words, in alphabetical order; other thousand classes leave it as it is."""
    create_model = timm.create_model

    def seeded(*args, pretrained=False, **kwargs):
        torch.manual_seed(0)
        return create_model(*args, **kwargs)

    monkeypatch.setattr(timm, "create_model", seeded)
    config = compose_config(*BARE, "model.pretrained=true", "attention=native")
    info = ImageNetInfo("imagenet-1k")
    words = [info.label_descriptions(as_dict=True)[name] for name in info.label_names()]
    words[517] = "crane2"
    order = sorted(range(1000), key=words.__getitem__)

    def head(classes):
        return build_module(config, SimpleNamespace(num_classes=1000, classes=classes)).model.head.weight

    original = head(info.label_names())
    assert torch.equal(head([words[index] for index in order]), original[order])
    assert torch.equal(head([f"class {index}" for index in range(1000)]), original)


def test_init_from_of_other_files(compose_config, teacher_run, tmp_path):
    content = torch.load(teacher_run / "checkpoints" / "best.ckpt", weights_only=True)
    weights = {name.removeprefix("model."): weight for name, weight in content["state_dict"].items()}
    timms = {"epoch": 1, "arch": "vit", "args": argparse.Namespace(lr=1), "metric": np.float64(1.0)}
    lightning = {"pytorch-lightning_version": "2.5", "hyper_parameters": {"net": nn.Linear(2, 2)}}
    files = {
        "raw.pt": weights,
        "timm.pth.tar": {**timms, "state_dict": {}, "state_dict_ema": {f"module.{k}": w for k, w in weights.items()}},
        "lightning.ckpt": {**lightning, "state_dict": {f"net._orig_mod.{k}": w for k, w in weights.items()}},
    }
    for name, saved in files.items():
        torch.save(saved, tmp_path / name)
    save_file(weights, tmp_path / "model.safetensors")
    for name in (*files, "model.safetensors"):
        config = compose_config(
            *BARE, *STILL, "attention=softmax", f"model.init_from={tmp_path / name}", "model.keep=[qkv,proj]"
        )
        module = build_module(config, SimpleNamespace(num_classes=10, classes=list("abcdefghij")))
        assert all(torch.equal(weight, weights[key]) for key, weight in module.model.state_dict().items()), name
    # The names that timm and fvit-export write beside weights are heeded.
    (tmp_path / "config.json").write_text(json.dumps({"label_names": list("jihgfedcba")}))
    module = build_module(config, SimpleNamespace(num_classes=10, classes=list("abcdefghij")))
    assert torch.equal(module.model.head.weight, weights["head.weight"].flip(0))


@pytest.mark.slow
def test_resuming_with_other_classes_is_rejected(compose_config, tmp_path):
    run = tmp_path / "run"
    fit(compose_config(*SAVED))
    more = (
        *SAVED,
        "trainer.max_epochs=3",
        f"ckpt_path={run / 'checkpoints' / 'last.ckpt'}",
        f"output_dir={tmp_path / 'on'}",
    )
    content = torch.load(run / "checkpoints" / "last.ckpt", weights_only=True)
    torch.save({**content, "classes": [*"012345678", "nine"]}, run / "checkpoints" / "last.ckpt")
    with pytest.raises(ValueError, match=r"trained on other classes \(new: 9; missing: nine\)\. .* model\.init_from="):
        fit(compose_config(*more))
    assert not (tmp_path / "on").exists()
    torch.save({**content, "classes": None}, run / "checkpoints" / "last.ckpt")
    assert fit(compose_config(*more[:-1])).trainer.global_step == 6


def test_init_from_of_another_model_or_a_missing_path_is_rejected(compose_config, teacher_run, tmp_path):
    resnet = ("model=timm", "model.name=test_resnet", "data=fake", "data.num_images=64", "global_batch_size=16")
    with pytest.raises(ValueError, match=r"none of the \d+ weights matches .* given: pos_embed, patch_embed"):
        fit(compose_config(*resnet, "logger=none", "callbacks=none", f"model.init_from={teacher_run}"))
    with pytest.raises(FileNotFoundError, match=r"model\.init_from=.*gone does not exist"):
        fit(compose_config(*BARE, f"model.init_from={tmp_path / 'gone'}"))
