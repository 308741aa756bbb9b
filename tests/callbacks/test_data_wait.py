"""What a GPU waits for, on one that is played by a clock."""

import pytest
import torch

from fvit.callbacks.data_wait import DeviceIdle, HostWait, waiting_for


class Gpu:
    """A device that is behind its host: it takes up each piece of work when it has done the one before."""

    def __init__(self):
        self.now = self.done = 0.0  # of the host, and when the device will have done what it was given
        self.read = 0

    def launch(self, seconds):
        self.done = max(self.done, self.now) + seconds

    def event(self, enable_timing):
        assert enable_timing
        return Event(self)


class Event:
    def __init__(self, gpu):
        self.gpu = gpu

    def record(self):
        self.time = max(self.gpu.done, self.gpu.now)

    def synchronize(self):
        self.gpu.now = max(self.gpu.now, self.time)

    def elapsed_time(self, later):
        assert max(self.time, later.time) <= self.gpu.now, "CUDA raises an error for an event that is still to come"
        self.gpu.read += 1
        return 1000 * (later.time - self.time)


@pytest.fixture
def gpu(monkeypatch):
    gpu = Gpu()
    monkeypatch.setattr(torch.cuda, "Event", gpu.event)
    monkeypatch.setattr("time.perf_counter", lambda: gpu.now)
    return gpu


def train(gpu, waiting, loading, launching, computing, steps=4):
    """Steps whose batch is there `loading` after the one before, and which the host launches in `launching` seconds."""
    for step in range(steps):
        there = (step + 1) * loading
        gpu.now = max(gpu.now, there)  # the host waits for the loader
        waiting.batch_arrived(None)
        gpu.launch(computing)
        gpu.now += launching
        waiting.count()
        waiting.step_ended()


def test_a_busy_gpu_does_not_wait_for_a_loader_that_delivers_just_in_time(gpu):
    """The host, which has launched a step in 10 ms, waits for the other 40."""
    idle, host = DeviceIdle(), HostWait()
    train(gpu, idle, loading=0.05, launching=0.01, computing=0.05)
    assert idle.seconds() == pytest.approx(0.05), "for the first batch alone"
    gpu.now = gpu.done = 0.0
    train(gpu, host, loading=0.05, launching=0.01, computing=0.05)
    assert host.seconds() == pytest.approx(0.05 + 3 * 0.04)


def test_a_gpu_that_is_faster_than_its_loader_waits_for_the_rest(gpu):
    idle = DeviceIdle()
    train(gpu, idle, loading=0.08, launching=0.01, computing=0.05)
    assert idle.seconds() == pytest.approx(0.08 + 3 * 0.03)


def test_events_are_read_when_the_sum_is_asked_for_and_once(gpu):
    idle = DeviceIdle()
    train(gpu, idle, loading=0.08, launching=0.01, computing=0.05)
    assert gpu.read == 0
    first = idle.seconds()
    assert (idle.seconds(), gpu.read) == (first, 4)


def test_intervals_that_are_not_counted_are_left_out(gpu):
    """As that behind a checkpoint."""
    idle = DeviceIdle()
    gpu.now = 7.0
    idle.batch_arrived(None)
    idle.step_ended()
    gpu.now = 8.0
    idle.batch_arrived(None)
    idle.count()
    assert idle.seconds() == pytest.approx(1.0)


def test_an_event_that_was_recorded_on_arrival_counts(gpu):
    """Behind it, normalisation and augmentation are at work."""
    idle = DeviceIdle()
    gpu.now = 1.0
    arrived = gpu.event(enable_timing=True)
    arrived.record()
    gpu.launch(0.5)
    idle.batch_arrived(arrived)
    idle.count()
    assert idle.seconds() == pytest.approx(1.0)


def test_the_device_decides(gpu):
    assert isinstance(waiting_for(torch.device("cuda", 1)), DeviceIdle)
    assert isinstance(waiting_for(torch.device("cpu")), HostWait)
