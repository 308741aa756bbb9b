import pytest
import torch

from fvit.cost import machine as machines
from fvit.cost.machine import fix_threads, machine, open_device

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


def test_what_bears_on_the_figures_is_told(monkeypatch, tmp_path):
    table = tmp_path / "cpuinfo"
    table.write_text("processor\t: 0\nmodel name\t: Abacus 9000\n")
    monkeypatch.setattr(machines, "_PROCESSORS", table)
    monkeypatch.setenv("OMP_WAIT_POLICY", "PASSIVE")
    found = machine(CPU)
    assert (found["device"], found["name"], found["waiting_threads"]) == ("cpu", "Abacus 9000", "passive")
    assert found["torch"] == torch.__version__
    monkeypatch.setattr(machines, "_PROCESSORS", tmp_path / "none")
    assert machine(CPU)["name"]


def test_a_gpu_is_named_with_its_libraries(monkeypatch):
    monkeypatch.setattr(torch.cuda, "get_device_name", lambda device: f"Abacus on {device.type}")
    monkeypatch.setattr(torch.version, "cuda", "99.1")
    monkeypatch.setattr(torch.backends.cudnn, "version", lambda: 99100)
    found = machine(torch.device("cuda"))
    assert (found["device"], found["name"]) == ("cuda", "Abacus on cuda")
    assert (found["cuda"], found["cudnn"]) == ("99.1", 99100)
    assert not {"cuda", "cudnn"} & set(machine(CPU))


def test_a_device_that_is_missing_is_named_with_the_remedy(monkeypatch):
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    assert open_device("cpu") == CPU
    with pytest.raises(ValueError, match="device=cuda: torch finds none here; use device=cpu"):
        open_device("cuda")
