import logging

import pytest
import torch

from fvit.run.usage import Usage, peak_gib
from tests.run.test_throughput import Recorder, trainer


def test_peak_memory_of_this_process_grows_by_what_it_takes():
    before = peak_gib(torch.device("cpu"))
    block = torch.ones(2**28)  # 1 GiB
    assert peak_gib(torch.device("cpu")) >= max(before, 0.9)
    del block


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


def test_a_gpu_tells_its_utilization(monkeypatch):
    monkeypatch.setattr(torch.cuda, "utilization", lambda device: 87)
    monkeypatch.setattr(torch.cuda, "max_memory_allocated", lambda device: 3 * 2**30)
    assert log(Usage(), module_on("cuda")) == {"memory/peak_gib": 3, "gpu/utilization": 87}


@pytest.mark.parametrize("error", [ModuleNotFoundError("pynvml"), RuntimeError("no driver")], ids=["module", "driver"])
def test_a_gpu_whose_driver_tells_nothing_is_told_once(monkeypatch, caplog, error):
    def fail(device):
        raise error

    monkeypatch.setattr(torch.cuda, "utilization", fail)
    monkeypatch.setattr(torch.cuda, "max_memory_allocated", lambda device: 0)
    with caplog.at_level(logging.WARNING):
        assert set(log(Usage(), module_on("cuda"))) == {"memory/peak_gib"}
    assert str(error) in caplog.text
