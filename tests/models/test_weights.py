"""Files of weights of other projects are read where that is safe, or named for what they are."""

import argparse
import collections
import functools
import gzip
import io
import json
import os
import pickle
import zipfile

import numpy as np
import pytest
import torch
from omegaconf import OmegaConf
from safetensors.torch import save_file
from torch import nn

from fvit.models import build
from fvit.models.weights import read_file, weights_in

WEIGHTS = {"head.weight": torch.arange(6.0).view(3, 2), "head.bias": torch.arange(3.0)}
OTHER = {name: weight + 1 for name, weight in WEIGHTS.items()}


class Config(dict):
    """As yacs.CfgNode, which Swin's checkpoints contain."""

    def __init__(self, content):
        super().__init__(content)
        self.__dict__["frozen"] = True


class Options:
    def __init__(self):
        self.depth = 2


def loaded(path, content, **options):
    torch.save(content, path, **options)
    return read_file(path)


def same(found, expected):
    return found.keys() == expected.keys() and all(torch.equal(found[name], expected[name]) for name in found)


@pytest.mark.parametrize(
    ("content", "key"),
    [
        (WEIGHTS, None),
        (collections.OrderedDict(WEIGHTS), None),
        ({**WEIGHTS, "version": 1}, None),
        ({"epoch": 3, "state_dict": WEIGHTS, "optimizer": {"state": {0: {"step": torch.ones(())}}}}, "state_dict"),
        ({"state_dict": OTHER, "state_dict_ema": WEIGHTS}, "state_dict_ema"),
        ({"model": OTHER, "model_ema": WEIGHTS}, "model_ema"),
        ({"model": WEIGHTS, "optimizer": {}, "scaler": {}}, "model"),
        ({"epoch": 1, "my_weights": WEIGHTS}, "my_weights"),
        ({"rng": [], "state": {"model": WEIGHTS, "optimizers": {"state": {0: {"step": torch.ones(())}}}}}, "model"),
        ({"state_dict": {f"module.{name}": weight for name, weight in WEIGHTS.items()}}, "state_dict"),
        ({"state_dict": {f"_orig_mod.{name}": weight for name, weight in WEIGHTS.items()}}, "state_dict"),
        ({f"module._orig_mod.{name}": weight for name, weight in WEIGHTS.items()}, None),
        ({"n_averaged": torch.tensor(2)} | {f"module.{name}": weight for name, weight in WEIGHTS.items()}, None),
    ],
)
def test_weights_are_found(tmp_path, content, key):
    weights, where = weights_in(loaded(tmp_path / "a.pt", content), tmp_path / "a.pt")
    assert where == key
    weights.pop("n_averaged", None)
    assert same(weights, WEIGHTS)


@pytest.mark.parametrize(
    "further",
    [
        np.float64(0.5),
        {"scores": np.arange(3, dtype=np.float32), "best": np.int64(3)},
        np.array(["2026-01-01"], dtype="datetime64[D]"),
        np.array([{"a": 1}, None]),
        OmegaConf.create({"lr": 0.1, "list": [1, {"a": None}]}),
        OmegaConf.create([1, 2]),
        argparse.Namespace(lr=0.1),
        collections.defaultdict(dict, {"a": {}}),
        Config({"a": Config({"b": 1})}),
        Options(),
        functools.partial(nn.Linear, 3),
        nn.Linear(2, 2),
        torch.optim.AdamW,
        {1, 2},
    ],
    ids=lambda value: type(value).__name__,
)
def test_weights_next_to_other_objects_are_read(tmp_path, further):
    content = {"hyper_parameters": {"further": further}, "state_dict": WEIGHTS}
    assert same(loaded(tmp_path / "a.ckpt", content)["state_dict"], WEIGHTS)


def test_another_pickle_protocol_is_named(tmp_path):
    with pytest.raises(ValueError, match=r"a\.pt cannot be read: it was written with another pickle protocol"):
        loaded(tmp_path / "a.pt", {"a": Options(), "state_dict": WEIGHTS}, pickle_protocol=4)


def test_numbers_and_containers_become_plain(tmp_path):
    config = OmegaConf.create({"lr": 0.1, "layers": [1, {"name": "additive"}], "same": "${lr}"})
    found = loaded(tmp_path / "a.ckpt", {"config": config, "metric": np.float32(0.5), "pair": (np.int64(1), 2)})
    assert found["config"] == {"lr": 0.1, "layers": [1, {"name": "additive"}], "same": "${lr}"}
    assert (found["metric"], type(found["metric"])) == (0.5, float)
    assert found["pair"] == (1, 2)


def test_format_before_torch_1_6(tmp_path):
    old = loaded(tmp_path / "a.pth", {"state_dict": WEIGHTS}, _use_new_zipfile_serialization=False)
    assert same(old["state_dict"], WEIGHTS)
    data = (tmp_path / "a.pth").read_bytes()
    (tmp_path / "a.pth").write_bytes(data[:-10])
    with pytest.raises(ValueError, match=r"is truncated or damaged"):
        read_file(tmp_path / "a.pth")
    content = {"args": argparse.Namespace(lr=1), "config": Config({"a": Options()}), "model": WEIGHTS}
    old = loaded(tmp_path / "a.pth", content, _use_new_zipfile_serialization=False)
    assert same(old["model"], WEIGHTS)


class Harmful:
    """A call of os.mkdir."""

    def __init__(self, path):
        self.path = path

    def __reduce__(self):
        return os.mkdir, (str(self.path),)


@pytest.mark.parametrize("zipped", [True, False])
def test_code_next_to_weights_is_not_executed(tmp_path, zipped):
    content = {"state_dict": WEIGHTS, "config": Harmful(tmp_path / "executed")}
    with pytest.raises(
        ValueError, match=r"a\.pt cannot be read: it contains objects of \w+\.mkdir, which are not loaded"
    ):
        loaded(tmp_path / "a.pt", content, _use_new_zipfile_serialization=zipped)
    assert not (tmp_path / "executed").exists()


def test_safetensors(tmp_path):
    save_file(WEIGHTS, tmp_path / "model.safetensors")
    assert same(read_file(tmp_path / "model.safetensors"), WEIGHTS)
    data = (tmp_path / "model.safetensors").read_bytes()
    (tmp_path / "b").write_bytes(data[:-4])
    with pytest.raises(ValueError, match=r"is a safetensors file that is truncated or damaged"):
        read_file(tmp_path / "b")


def zipped(**members):
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w") as archive:
        for name, text in members.items():
            archive.writestr(name.replace("__", "/").replace("_", "."), text)
    return buffer.getvalue()


def arrays():
    buffer = io.BytesIO()
    np.savez(buffer, a=np.zeros(2))
    return buffer.getvalue()


@pytest.mark.parametrize(
    ("data", "kind"),
    [
        (b"", "is empty"),
        (b"version https://git-lfs.github.com/spec/v1\noid sha256:1\n", "a Git LFS pointer and not the file itself"),
        (b"<!doctype html><html></html>", "a page of HTML or XML"),
        (b"some text of any kind", "but text"),
        (b"name.txt".ljust(100, b"\0") + b"0000644", "in a format of its own"),
        (b'{"key": {"a": 1}}', "but text"),
        (json.dumps({"a": 1}).encode(), "but text"),
        (b"\x89HDF\r\n\x1a\n", "an HDF5 file"),
        (gzip.compress(b"weights"), "compressed with gzip"),
        (pickle.dumps({"a": 1}), "a pickle, which would have to be executed"),
        (b"\xff\xfe\xfd\xfc", "in a format of its own"),
        (arrays(), "is a NumPy archive of a.npy"),
        (zipped(notes_txt="text"), "is a zip archive of notes.txt"),
        (zipped(archive__data_pkl="text"), r"a\.bin cannot be read"),
        (arrays()[:60], "is truncated: it has no intact end"),
        (zipped(archive__data_pkl="", archive__constants_pkl=""), "is a TorchScript archive"),
    ],
    ids=lambda value: value if isinstance(value, str) else "",
)
def test_other_file_is_named_for_what_it_is(tmp_path, data, kind):
    (tmp_path / "a.bin").write_bytes(data)
    with pytest.raises(ValueError, match=kind) as caught:
        read_file(tmp_path / "a.bin")
    assert "\n" not in str(caught.value)
    assert str(tmp_path / "a.bin") in str(caught.value)
    assert ("truncated" in str(caught.value)) == ("truncated" in kind)


SHAPE = {"name": "vit_tiny_patch16_224", "img_size": 32, "embed_dim": 24, "depth": 2, "num_heads": 3, "num_classes": 3}


@pytest.mark.parametrize("prefix", ["", "model.", "net.", "student.backbone."])
@pytest.mark.parametrize(("source", "target"), [(None, None), ("additive", "additive")])
def test_weights_under_a_prefix_are_loaded_also_into_an_exchanged_model(prefix, source, target):
    weights = build(**SHAPE, attention=source).state_dict()
    renamed = {f"{prefix}{name}": weight for name, weight in weights.items()} | {"criterion.weight": torch.ones(3)}
    model = build(**SHAPE, attention=target, weights=renamed)
    assert same(model.state_dict(), weights)
    assert not model.weight_transfer.initialised


def test_attention_of_a_host_is_not_loaded_into_another():
    weights = build(**SHAPE).state_dict()
    model = build(**SHAPE, attention="linear", weights=weights, keep=[])
    assert torch.equal(model.head.weight, weights["head.weight"])
    assert not torch.equal(model.blocks[0].attn.qkv.weight, weights["blocks.0.attn.qkv.weight"])
