import gc
import logging
from pathlib import Path

import pytest
import torch

from fvit.callbacks.usage import Usage
from fvit.launch.run_dir import read_metrics
from tests.callbacks.test_throughput import Recorder, trainer
from tests.cost.test_memory import needs_linux


def module_on(device):
    module = Recorder()
    module.device = torch.device(device)
    return module


def log(usage, module):
    usage.on_train_start(None, module)
    usage.on_train_batch_end(trainer(), module, None, None, 0)
    return module.logged


def test_a_cpu_has_memory_and_no_utilization():
    assert set(log(Usage(), module_on("cpu"))) == {"memory/peak_gib"}


@pytest.fixture
def gpu(monkeypatch):
    """A stand-in, whose memory has been reset once and then used."""
    reset = []
    monkeypatch.setattr(torch.cuda, "reset_peak_memory_stats", reset.append)
    monkeypatch.setattr(torch.cuda, "max_memory_allocated", lambda device: 3 * 2**30 if reset == [device] else 0)


def test_a_gpu_tells_its_utilization(gpu, monkeypatch):
    monkeypatch.setattr(torch.cuda, "utilization", lambda device: 87)
    assert log(Usage(), module_on("cuda")) == {"memory/peak_gib": 3, "gpu/utilization": 87}


class NVMLError(Exception):
    """As that of pynvml, which is no RuntimeError: of a missing library, or of a GPU that is cut into parts (MIG)."""


@pytest.mark.parametrize(
    "error", [ModuleNotFoundError("pynvml"), RuntimeError("no driver"), NVMLError("Not Supported")]
)
@pytest.mark.parametrize("steps", [0, 1], ids=["never", "not any more"])
def test_a_gpu_whose_driver_tells_nothing_is_warned_of_once(gpu, monkeypatch, caplog, error, steps):
    told = [87] * steps

    def tell(device):
        if told:
            return told.pop()
        raise error

    monkeypatch.setattr(torch.cuda, "utilization", tell)
    usage, modules = Usage(), [module_on("cuda") for _ in range(steps + 2)]
    usage.on_train_start(None, modules[0])
    with caplog.at_level(logging.WARNING):
        for module in modules:
            usage.on_train_batch_end(trainer(), module, None, None, 0)
    assert ["gpu/utilization" in module.logged for module in modules] == [True] * steps + [False, False]
    assert [record.getMessage() for record in caplog.records] == [f"the utilization of the GPU is not logged: {error}"]


@pytest.fixture
def no_collection():
    """Python collects cycles when it likes, maybe between two jobs."""
    gc.disable()
    yield
    gc.enable()


@needs_linux
def test_a_job_after_a_larger_one_reports_its_own_peak(main, no_collection):
    run = ["data=fake", "data.num_images=16", "global_batch_size=8", "model.depth=1", "debug=limit", "logger=none"]
    done = main("train", "-m", *run, "trainer.max_epochs=1", "model.embed_dim=1200,24", "hydra.sweep.dir=swept")
    assert done.returncode == 0, done.stderr
    large, small = (read_metrics(Path("swept") / job)["metrics"] for job in "01")
    # The weights, their gradients and the optimizer's two moments, less what libraries load in the first job alone.
    gone = 4 * 4 * (large["cost/params"] - small["cost/params"]) / 2**30
    assert gone > 0.2
    assert large["memory/peak_gib"] - small["memory/peak_gib"] > 0.7 * gone
