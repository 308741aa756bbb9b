import errno
import multiprocessing
import os
import re

import pytest
import torch
from hydra import compose, initialize_config_dir
from hydra.core.config_store import ConfigStore
from hydra.utils import instantiate
from lightning import Trainer

from fvit import attention
from fvit.config.errors import ConfigError, RunError, explain
from fvit.config.paths import conf_dir
from fvit.data import sources
from fvit.models.transfer import requested_projections


def _caught(function, *args, **kwargs):
    try:
        function(*args, **kwargs)
    except Exception as error:
        return error
    raise AssertionError("nothing was raised")


def _composed(*overrides):
    with initialize_config_dir(str(conf_dir()), version_base="1.3"):
        compose("train", overrides=list(overrides))


@pytest.mark.parametrize(
    ("function", "message"),
    [
        (
            lambda: attention.get("addtive"),
            r"attention 'addtive', did you mean additive .*\?; \w+: additive, add",
        ),
        (lambda: attention.get("zzz"), r"attention 'zzz'; \w+: additive, additive_plus"),
        (lambda: attention.bind(attention.get("pool"), dimm=3), r"no option 'dimm', did you mean dim\?; .*: dim, num"),
        (
            lambda: requested_projections(["qvk"]),
            r"keep has no 'qvk', did you mean qkv .*\?; it takes: qkv, q, k, v, proj",
        ),
        (lambda: sources.load("digit"), r"digit\b.*, did you mean digits\?; known: digits, folder"),
    ],
)
def test_a_value_error_of_ours_is_a_message_with_the_nearest_name(function, message):
    assert re.search(message, explain(_caught(function)))


@pytest.mark.parametrize("kind", [ConfigError, RunError])
def test_our_error_classes_are_messages(kind):
    assert explain(kind("'a'; known: ab, abc")) == "'a'; known: ab, abc"


def test_a_misconfiguration_of_lightning_is_a_message():
    assert "should be an int" in explain(_caught(Trainer, check_val_every_n_epoch=0.5))


def test_an_unexpected_argument_is_a_message():
    assert "unexpected keyword argument 'max_epoch'" in explain(_caught(Trainer, max_epoch=3))
    logger = {"_target_": "lightning.pytorch.loggers.CSVLogger", "save_dir": ".", "dir": "x"}
    assert "unexpected keyword argument 'dir'" in explain(_caught(instantiate, logger))


@pytest.mark.parametrize("error", [(int, "x"), (len, 3), (divmod, 1, 0)])
def test_another_error_is_a_bug(error):
    assert explain(_caught(*error)) is None


def test_a_folder_that_cannot_be_made_is_named(tmp_path, monkeypatch):
    """Another run directory is advised only if that one was the default."""
    monkeypatch.chdir(tmp_path)
    for name in ("logs", "file"):
        (tmp_path / name).write_text("")
        error = _caught((tmp_path / name / "run").mkdir)
        assert explain(error).startswith(f"cannot use {tmp_path / name}/run: Not a directory")
        assert ("hydra.run.dir=DIR (of a sweep: hydra.sweep.dir=DIR)" in explain(error)) is (name == "logs")
        assert "hydra.run.dir" not in explain(error, "export")


def test_a_full_disk_without_a_file_is_a_message():
    assert explain(OSError(errno.ENOSPC, "No space left on device")).startswith("the disk is full: free some space")


# What torch 2.14 raises.
SHARED_MEMORY = (
    "Caught RuntimeError in DataLoader worker process 0.\nOriginal Traceback (most recent call last):\n  File …\n"
    "RuntimeError: unable to {} file </torch_412_{}>: No space left on device (28)"
)
BUS = (
    "DataLoader worker (pid 412) is killed by signal: Bus error. It is possible that dataloader's workers are out of …"
)


@pytest.mark.parametrize(
    ("error", "task", "message"),
    [
        *(
            (
                RuntimeError(SHARED_MEMORY.format(verb, 7)),
                "train",
                r"/dev/shm is full, .*--shm-size=8g\), .* data\.num_workers=N",
            )
            for verb in ("write to", "resize", "allocate shared memory(shm) for")
        ),
        (RuntimeError(BUS), "predict", r"/dev/shm is full, .*--shm-size=8g\), or use fewer processes: num_workers=N"),
        (
            RuntimeError("DataLoader worker (pid 412) is killed by signal: Killed. "),
            "train",
            r"\(pid 412\) was lost: killed by signal: Killed\. Memory has probably run out; .*data\.num_workers=N",
        ),
        (
            RuntimeError("DataLoader worker (pid(s) 412, 413) exited unexpectedly"),
            "train",
            r"\(pid 412, 413\) was lost: exited unexpectedly\. Memory has probably run out; give the job more",
        ),
        (RuntimeError("DataLoader timed out after 1800 seconds"), "eval", r"no batch for 1800 s; check the storage"),
    ],
)
def test_what_becomes_of_loader_processes_is_a_message(error, task, message):
    text = explain(error, task)
    assert re.search(message, text)
    assert "\n" not in text


CUDA_FULL = (
    "CUDA out of memory. Tried to allocate 2.50 GiB. GPU 0 has a total capacity of 79.15 GiB of which 1.12 GiB is free."
)


@pytest.mark.parametrize(
    ("error", "message"),
    [
        (torch.OutOfMemoryError(CUDA_FULL), "the GPU is out of memory, when another 2.50 GiB was needed. Try "),
        (RuntimeError("CUDA error: out of memory\nCUDA kernel errors might be"), "the GPU is out of memory. Try "),
        (RuntimeError("CUDA error: CUBLAS_STATUS_ALLOC_FAILED when calling"), "the GPU is out of memory. Try "),
        (
            RuntimeError("[enforce fail at alloc_cpu.cpp:1] DefaultCPUAllocator: can't allocate memory: you tried to "),
            "this machine is out of memory. Try ",
        ),
    ],
)
@pytest.mark.parametrize(
    ("task", "advice"), [("train", "micro_batch_size=N"), ("eval", "data.eval_batch_size"), ("predict", "batch_size=N")]
)
def test_full_memory_is_one_line_with_the_remedy(error, message, task, advice):
    explained = explain(error, task)
    assert explained.startswith(message)
    assert advice in explained
    assert ("grad_checkpointing=true" in explained) == (task == "train")
    assert "\n" not in explained


def test_real_full_memory_is_a_message():
    assert explain(_caught(torch.empty, 2**50)).startswith(
        "this machine is out of memory, when another 4503599627370496"
    )


@pytest.mark.parametrize("number", [errno.ENOMEM, errno.EAGAIN])
def test_loader_process_that_cannot_be_started_is_a_message(monkeypatch, number):
    def fork():
        raise OSError(number, os.strerror(number))

    monkeypatch.setattr("os.fork", fork)
    start = multiprocessing.get_context("fork").Process(target=int).start
    assert re.search(r"could not be started \(.*\): .* data\.num_workers=N", explain(_caught(start)))


@pytest.mark.parametrize(
    ("override", "message"),
    [
        ("attention=additiv", "attention=additiv is not an option, did you mean additive"),
        ("trainer.max_epoch=1", "unknown key trainer.max_epoch, did you mean trainer.max_epochs?"),
        (
            "data.root=DIR",
            "unknown key data.root: the chosen option of data has no root, unlike data=cifar10 or folder or ",
        ),
        ("experimnt=quickstart", "unknown key experimnt, did you mean experiment"),
        ("attention=", "attention= is not an option; known: additive, "),
        ("logger=null", "logger=null: logger takes the name of one of its options; `fvit-train --help` lists them"),
        ("model=3", "model=3: model takes the name of one of its options"),
        ("model.trim_last=true", "model.trim_last was removed in 0.2.0: every model computes all its tokens"),
        ("title=Größe", "title=Größe cannot be parsed as KEY=VALUE in Hydra's grammar; if the value is a string or a"),
        ("ckpt_path=a=b", "write \"ckpt_path='a=b'\""),
        ("additive", "'additive' is not an override: write KEY=VALUE"),
    ],
)
def test_hydras_errors_name_the_remedy(override, message):
    explained = explain(_caught(_composed, override))
    assert message in explained
    assert "+" not in explained


def test_a_launcher_that_is_not_installed_is_named_with_its_extra(monkeypatch):
    with initialize_config_dir(str(conf_dir()), version_base="1.3"):
        monkeypatch.delitem(ConfigStore.instance().repo["hydra"]["launcher"], "submitit_local.yaml")
        error = _caught(compose, "train", overrides=["hydra/launcher=submitit_local"])
    assert explain(error).endswith("pip install 'fvit[submitit]'")
