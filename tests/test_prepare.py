"""fvit-prepare from the command line."""

import importlib
import json
import logging
import re
import shlex
import shutil
import signal
import subprocess
import sys
import time
from types import SimpleNamespace

import pytest

from fvit.config.overrides import parse, quoted, value_of
from fvit.data import sources
from tests.data.prepare.folders import contents
from tests.data.tars import flip, noise


@pytest.fixture
def prepare(tmp_path, monkeypatch, capfd):
    """Run the command line in this process and an empty folder."""
    work = tmp_path / "work"
    work.mkdir()

    def run(*arguments):
        monkeypatch.chdir(work)
        monkeypatch.setenv("HYDRA_FULL_ERROR", "")
        monkeypatch.setattr(sys, "argv", ["fvit-prepare", *arguments])
        handlers = logging.getLogger().handlers[:]
        try:
            importlib.import_module("fvit.prepare").main()
            code = 0
        except SystemExit as stop:
            code = stop.code
        finally:
            logging.getLogger().handlers[:] = handlers
        out, err = capfd.readouterr()
        return SimpleNamespace(code=code, out=out, err=err)

    run.folder = work
    return run


@pytest.fixture
def tree(tmp_path):
    """An ImageFolder tree of two classes, in which one of the training images is truncated."""
    for k in range(12):
        path = tmp_path / "tree" / ("train" if k < 8 else "val") / "ab"[k % 2] / f"img{k}.jpg"
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(noise(k)[: 500 if k == 5 else None])
    return tmp_path / "tree"


def test_tree_becomes_shards(prepare, tree, tmp_path):
    done = prepare(f"data.root={tree}", "out=shards", "resize=256", "workers=2", "shard_size=3")
    assert (done.code, done.err) == (0, "")
    out = done.out.replace("\n", "")
    assert "12 of 12 images" in done.out
    assert f"skipped {tree}/train/b/img5.jpg: " in out
    assert "7 for training, 4 for validation, 1 skipped" in done.out
    assert "fvit-train data=imagenet data.root=shards" in done.out
    assert sorted(path.name for path in prepare.folder.iterdir()) == ["shards"], "no logs/ and no run directory"
    source = sources.load("imagenet", root=str(prepare.folder / "shards"), cache_dir=str(tmp_path / "cache"))
    assert source.classes == ["a", "b"]
    assert sorted(source.train.read(k) for k in range(7)) == sorted(noise(k) for k in range(8) if k != 5)
    settings = json.loads((prepare.folder / "shards/manifest.json").read_text())["settings"]
    assert settings["source"] == {"name": "imagenet", "root": str(tree)}


def test_shards_can_be_prepared_again(prepare, tree):
    assert prepare(f"data.root={tree}", "out=one", "workers=0").code == 0
    assert prepare("data.root=one", "out=two", "workers=0", "shard_size=2").code == 0
    assert prepare("verify=two", "workers=0").code == 0


def test_other_source(prepare):
    done = prepare("data=fake", "data.num_images=6", "data.image_size=8", "out=shards", "workers=0")
    assert done.code == 0
    names = contents(prepare.folder / "shards")
    assert sorted(names) == [
        *("manifest.json", "train/index.npy", "train/train-00000.tar", "val/index.npy", "val/val-00000.tar")
    ]


def test_same_command_again_changes_nothing(prepare, tree):
    arguments = [f"data.root={tree}", "out=shards", "workers=0"]
    assert prepare(*arguments).code == 0
    done = prepare(*arguments)
    assert done.code == 0
    assert "everything already existed" in done.out
    # The cache has no effect on the shards.
    assert prepare(*arguments, "data.cache_gib=3").code == 0
    done = prepare(*arguments, "resize=320")
    assert done.code == 1
    assert "error: out=shards was written with other settings: resize was None and is now 320" in done.err


def test_the_commands_that_are_printed_can_be_pasted(prepare, tree):
    out = "it's in $HOME"
    printed = prepare(f"out={quoted(out)}", f"data.root={tree}", "bad=skip", "workers=0").out
    train, verify = (shlex.split(command) for command in re.findall(r"with +(fvit-.*)", printed))
    assert [value_of(override) for _, override in parse([train[2], verify[1]])] == [out, out]
    assert prepare(*verify[1:], "workers=0").code == 0


def test_verify(prepare, tree):
    assert prepare(f"data.root={tree}", "out=shards", "workers=0").code == 0
    done = prepare("verify=shards", "workers=0")
    assert (done.code, done.err) == (0, "")
    assert "shards: 4 files, all intact" in done.out
    flip(prepare.folder / "shards/val/val-00000.tar", 600)
    done = prepare("verify=shards", "workers=0")
    assert done.code == 1
    assert "val/val-00000.tar: changed" in done.out
    assert "error: shards: 1 problem in 4 files" in done.err


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ([], "give one of out=DIR to write shards, verify=DIR to verify shards"),
        (["out=a", "verify=b"], "out and verify exclude each other: out=DIR to write shards"),
        (["out=a"], "data=imagenet needs data.root"),
        (["out=a", "data.root=missing"], "data.root=missing is not a folder"),
        (["out=a", "rezise=256"], "unknown key rezise, did you mean resize"),
        (["out=a", "+rezise=256"], "unknown key rezise=256, did you mean resize"),
        (["out=a", "resize=300"], "resize=300: input should be 'none', 256, 320 or 512"),
        (["out=a", "quality=0"], "quality=0: input should be greater than or equal to 1"),
        (["out=a", "bad=ignore"], "bad='ignore': input should be 'skip' or 'fatal'"),
        (["out=a", "workers=-1"], "workers=-1: input should be greater than or equal to 0"),
        (["out=a", "data=imagnet"], "data=imagnet is not an option, did you mean imagenet"),
        (["out=a", "data=digits", "+data.root=x"], "data.root is not an option of data.name=digits; it has no options"),
        (["verify=missing"], "missing is not a folder"),
    ],
)
def test_mistake_is_one_error_and_leaves_nothing(prepare, arguments, message):
    done = prepare(*arguments)
    assert done.code == 1
    assert message in done.err
    assert done.err.count("error: ") == 1
    assert "Traceback" not in done.out + done.err
    assert list(prepare.folder.iterdir()) == []


def test_damaged_image_can_be_fatal(prepare, tree):
    done = prepare(f"data.root={tree}", "out=shards", "workers=2", "bad=fatal")
    assert done.code == 1
    assert f"error: {tree}/train/b/img5.jpg: " in done.err
    shutil.rmtree(prepare.folder / "shards")
    assert prepare(f"data.root={tree}", "out=shards", "workers=0", "bad=fatal").code == 1


def test_credentials_are_not_in_the_manifest(prepare, tree, monkeypatch):
    real = sources.load
    monkeypatch.setattr(sources, "load", lambda name, root, **splits: real("folder", root=str(tree)))
    root = "data.root='https://me:secret@host/set?token=secret'"
    assert prepare("data=folder", root, "out=shards", "workers=0").err == ""
    text = (prepare.folder / "shards/manifest.json").read_text()
    assert "https://host/set" in text
    assert "secret" not in text


def test_help(prepare):
    done = prepare("--help")
    assert done.code == 0
    for word in ("out=DIR", "verify=DIR", "resize", "quality", "shard_size", "workers", "bad"):
        assert word in done.out


@pytest.mark.slow
@pytest.mark.exhaustive  # tests/data/prepare/test_restart.py kills a preparation
def test_killed_command_resumes(tmp_path):
    """In processes of its own."""

    def start(out):
        options = [
            "data=fake",
            "data.num_images=1500",
            "data.image_size=96",
            f"out={out}",
            "workers=2",
            "shard_size=50",
        ]
        return subprocess.Popen([sys.executable, "-m", "fvit.prepare", *options], cwd=tmp_path)

    process = start("killed")
    deadline = time.monotonic() + 120
    while not (tmp_path / "killed/train/train-00005.tar").is_file() and time.monotonic() < deadline:
        time.sleep(0.01)
    process.kill()
    assert process.wait() == -signal.SIGKILL
    assert not (tmp_path / "killed/manifest.json").exists()
    for out in ("killed", "whole"):
        assert start(out).wait() == 0
    assert contents(tmp_path / "killed") == contents(tmp_path / "whole")
