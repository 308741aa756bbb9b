"""Devices, threads, and the steps of a workload."""

import pytest
import torch
from torch import nn

from fvit.cost import workload as workloads
from fvit.cost.workload import Conditions, Workload, fix_threads, machine, open_device
from fvit.models import build

CPU = torch.device("cpu")


@pytest.fixture(autouse=True)
def threads():
    before = torch.get_num_threads()
    yield before
    torch.set_num_threads(before)


@pytest.mark.parametrize("number", [1, 2])
def test_threads_are_fixed_and_recorded(number):
    fix_threads(number)
    assert torch.get_num_threads() == machine(CPU)["threads"] == number
    fix_threads(None)
    assert torch.get_num_threads() == number


def test_hardware_and_settings_are_described(monkeypatch, tmp_path):
    table = tmp_path / "cpuinfo"
    table.write_text("processor\t: 0\nmodel name\t: Abacus 9000\n")
    monkeypatch.setattr(workloads, "_CPUINFO", table)
    monkeypatch.setenv("OMP_WAIT_POLICY", "PASSIVE")
    found = machine(CPU)
    assert (found["device"], found["name"], found["waiting_threads"]) == ("cpu", "Abacus 9000", "passive")
    assert found["torch"] == torch.__version__
    monkeypatch.setattr(workloads, "_CPUINFO", tmp_path / "none")
    assert machine(CPU)["name"]


def test_gpu_is_described_with_its_libraries(monkeypatch):
    monkeypatch.setattr(torch.cuda, "get_device_name", lambda device: f"Abacus on {device.type}")
    monkeypatch.setattr(torch.version, "cuda", "99.1")
    monkeypatch.setattr(torch.backends.cudnn, "version", lambda: 99100)
    found = machine(torch.device("cuda"))
    assert (found["device"], found["name"]) == ("cuda", "Abacus on cuda")
    assert (found["cuda"], found["cudnn"]) == ("99.1", 99100)
    assert not {"cuda", "cudnn"} & set(machine(CPU))


def test_missing_device_is_rejected_with_the_remedy(monkeypatch):
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    assert open_device("cpu") == CPU
    with pytest.raises(ValueError, match="device=cuda: torch finds none here; use device=cpu"):
        open_device("cuda")


def vit():
    return build("vit_tiny_patch16_224", 32, 10, patch_size=8, embed_dim=24, depth=1, num_heads=3)


def test_bf16_is_autocast():
    dtypes = []

    class Records(nn.Module):
        def __init__(self):
            super().__init__()
            self.weight = nn.Parameter(torch.ones(10, 3))

        def forward(self, images):
            out = images.mean((2, 3)) @ self.weight.T
            dtypes.append(out.dtype)
            return out

    model = Records()
    Workload(model, Conditions(32, "bf16")).forward(1)()
    Workload(model, Conditions(32)).forward(1)()
    Workload(model, Conditions(32, "bf16")).train(1)()
    assert dtypes == [torch.bfloat16, torch.float32, torch.bfloat16]
    assert model.weight.dtype == torch.float32


def test_training_step_changes_no_weights_and_leaves_no_gradients():
    model = vit()
    before = {name: tensor.clone() for name, tensor in model.state_dict().items()}
    workload = Workload(model, Conditions(32))
    for step in (workload.train(2), workload.backward(2)):
        step()
        assert all(p.grad is None for p in model.parameters())
    assert all(torch.equal(before[name], tensor) for name, tensor in model.state_dict().items())


def test_modes_of_the_steps():
    modes = []
    model = vit()
    model.register_forward_pre_hook(
        lambda module, _: modes.append((module.training, torch.is_inference_mode_enabled()))
    )
    workload = Workload(model, Conditions(32))
    for step in (workload.forward(1), workload.train(1), workload.loss(1), workload.forward(1)):
        step()
    assert modes == [(False, True), (True, False), (True, False), (False, True)]


def test_busy_cpus_are_those_that_other_work_keeps_busy(monkeypatch, tmp_path):
    """User, nice, system, idle, disk, interrupts twice, stolen; and a CPU that this process may not use."""
    first = "cpu 9 9\ncpu0 100 0 0 900 0 0 0 0 5 5\ncpu1 0 0 0 0 0 0 0 0 0 0\ncpu7 0 0 0 0 0 0 0 0 0 0\nintr 3\n"
    second = "cpu 9 9\ncpu0 120 5 5 910 5 0 0 5 9 9\ncpu1 0 0 0 10 0 0 0 0 0 0\ncpu7 50 0 0 0 0 0 0 0 0 0\nintr 3\n"
    stat = tmp_path / "stat"
    stat.write_text(first)
    monkeypatch.setattr(workloads, "_STAT", stat)
    monkeypatch.setattr(workloads.os, "sched_getaffinity", lambda pid: {0, 1}, raising=False)
    monkeypatch.setattr(workloads.time, "sleep", lambda seconds: stat.write_text(second))
    assert workloads.busy_cpus() == pytest.approx(35 / 50)
    monkeypatch.setattr(workloads, "_STAT", tmp_path / "absent")
    assert workloads.busy_cpus() is None
