"""Activations, peaks, and the limit on allocations."""

import resource

import pytest
import torch
from torch import nn

from fvit.cost import memory
from fvit.cost.memory import bounded, peak, peak_of, reset_peak, saved_for_backward

MIB = 2**20


def test_activations_of_known_layers():
    """A linear layer saves its input and a ReLU its output, which is the input of the next layer: two tensors."""
    model = nn.Sequential(nn.Linear(64, 64), nn.ReLU(), nn.Linear(64, 64))
    x = torch.randn(8, 64)
    assert saved_for_backward(lambda: model(x), model.parameters()) == 2 * 8 * 64 * 4
    assert saved_for_backward(lambda: model(x)) > 2 * 8 * 64 * 4, "weights are counted unless given as present"


def test_no_activations_without_gradients():
    model = nn.Linear(4, 4)
    with torch.no_grad():
        assert saved_for_backward(lambda: model(torch.randn(2, 4)), model.parameters()) == 0


CPU = torch.device("cpu")
needs_linux = pytest.mark.skipif(peak_of(lambda: None, CPU) is None, reason="unknown resident size")


@needs_linux
@pytest.mark.parametrize("size", [4, 16, 64])
def test_peak_includes_memory_that_was_freed_before(size):
    def step():
        torch.ones(size * MIB // 4)  # freed at once

    # glibc keeps small pieces after they are freed.
    pieces = [torch.ones(MIB // 8) for _ in range(512)]
    del pieces
    for _ in range(3):
        assert size - 1 < peak_of(step, CPU) / MIB < size + 2


@needs_linux
def test_step_without_allocations_has_no_peak():
    assert peak_of(lambda: None, CPU) < MIB


@needs_linux
def test_one_time_allocations_are_not_counted():
    kept = []

    def step():
        if not kept:
            kept.append(torch.ones(16 * MIB // 4))

    assert peak_of(step, CPU) < MIB


@needs_linux
def test_reset_restarts_the_peak():
    torch.ones(256 * MIB // 4)  # freed at once
    high = peak(CPU)
    assert reset_peak(CPU)
    low = peak(CPU)
    assert high - low > 255 * MIB
    torch.ones(64 * MIB // 4)
    assert 63 * MIB < peak(CPU) - low < 66 * MIB


def test_peak_on_a_gpu_is_that_of_the_second_run_above_memory_in_use(monkeypatch):
    """The allocator holds 100 bytes, 1,000 more after the first run, and a step needs 40."""
    state = {"held": 100, "peak": 0, "waited": True}

    def step():
        state["held"] = 1100
        state["peak"] = max(state["peak"], state["held"] + 40)
        state["waited"] = False

    def read(name):
        assert state["waited"], "read before the device was done"
        return state[name]

    cuda = {
        "synchronize": lambda device: state.update(waited=True),
        "memory_allocated": lambda device: read("held"),
        "max_memory_allocated": lambda device: read("peak"),
        "reset_peak_memory_stats": lambda device: state.update(peak=read("held")),
    }
    for name, function in cuda.items():
        monkeypatch.setattr(torch.cuda, name, function)
    state["peak"] = 9999  # of an earlier step
    assert peak_of(step, torch.device("cuda")) == 40


def test_other_devices_have_no_peak():
    assert peak_of(lambda: None, torch.device("meta")) is None


def test_other_c_libraries_have_no_peak(monkeypatch):
    monkeypatch.setattr(memory.ctypes, "CDLL", lambda name: object())
    assert peak_of(lambda: None, CPU) is None


@needs_linux
def test_allocations_beyond_available_memory_fail(monkeypatch):
    monkeypatch.setattr(memory, "_available", lambda: 64 * MIB)
    limit = resource.getrlimit(resource.RLIMIT_DATA)
    with bounded():
        torch.ones(16 * MIB // 4)
        with pytest.raises(RuntimeError, match="can't allocate memory"):
            torch.ones(1024 * MIB // 4)
    assert resource.getrlimit(resource.RLIMIT_DATA) == limit
    torch.ones(128 * MIB // 4)


@needs_linux
def test_existing_limit_is_not_raised(monkeypatch):
    monkeypatch.setattr(memory, "_available", lambda: 64 * 1024 * MIB)
    hard = resource.getrlimit(resource.RLIMIT_DATA)[1]
    monkeypatch.setattr(resource, "getrlimit", lambda kind: (10 * 1024 * MIB, hard))
    found = []
    monkeypatch.setattr(resource, "setrlimit", lambda kind, limits: found.append(limits))
    with bounded():
        pass
    assert found == [(10 * 1024 * MIB, hard)] * 2


def test_limit_of_a_container_counts(monkeypatch, tmp_path):
    (tmp_path / "memory.max").write_text("3000000\n")
    (tmp_path / "memory.current").write_text("1000000\n")
    machine = tmp_path / "meminfo"
    machine.write_text("MemTotal: 9 kB\nMemAvailable:   1500 kB\n")
    monkeypatch.setattr(memory, "_CONTAINER", tmp_path)
    monkeypatch.setattr(memory, "_MACHINE", machine)
    monkeypatch.setattr(memory, "_STATUS", machine)
    assert memory._available() == 1500 * 1024
    (tmp_path / "memory.current").write_text("2900000\n")
    assert memory._available() == 100000
    (tmp_path / "memory.max").write_text("max\n")
    assert memory._available() == 1500 * 1024


def test_unknown_available_memory_sets_no_limit(monkeypatch, tmp_path):
    monkeypatch.setattr(memory, "_MACHINE", tmp_path / "none")
    with bounded():
        torch.ones(MIB)
