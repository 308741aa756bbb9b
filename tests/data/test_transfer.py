"""Copies beside the computation, with streams that write down what is asked of them."""

from contextlib import contextmanager

import pytest
import torch

from fvit.data import ImageDataModule, transfer
from fvit.data.dataset import Batch
from fvit.data.transforms.draws import Draws, MixDraws
from tests.training.fitting import FAKE, Probe, fit

CPU = torch.device("cpu")


class Streams:
    """What takes place in which order, and on which stream."""

    def __init__(self):
        self.log, self.current = [], "compute"

    def wait_stream(self, other):
        self.log.append("compute waits for the side stream")

    @contextmanager
    def stream(self, stream):
        self.current, before = "side", self.current
        yield
        self.current = before

    def event(self, enable_timing):
        return self

    def record(self, stream):
        assert stream is self
        self.log.append("arrived")


@pytest.fixture
def streams(monkeypatch):
    streams, move = Streams(), transfer.move_data_to_device

    def moved(batch, device):
        streams.log.append(f"copy on {streams.current}")
        return move(batch, device)

    monkeypatch.setattr(torch.cuda, "Stream", lambda device: object())
    monkeypatch.setattr(torch.cuda, "current_stream", lambda device: streams)
    monkeypatch.setattr(torch.cuda, "stream", streams.stream)
    monkeypatch.setattr(torch.cuda, "Event", streams.event)
    monkeypatch.setattr(torch.Tensor, "record_stream", lambda tensor, stream: streams.log.append("held"))
    monkeypatch.setattr(transfer, "move_data_to_device", moved)
    return streams


def test_the_computation_waits_for_the_copy_and_holds_its_memory(streams):
    numbers = torch.arange(3)
    draws = Draws(mix=MixDraws(numbers, numbers, numbers))
    batch = Batch(numbers.view(3, 1, 1, 1), numbers, numbers, numbers, (), draws)
    found = transfer.SideStream(CPU)(batch)
    held = ["held"] * (4 + len(draws.mix))
    assert streams.log == ["copy on side", "compute waits for the side stream", *held, "arrived"]
    assert type(found) is Batch
    assert type(found.draws.mix) is MixDraws
    assert torch.equal(found.images, batch.images)


def test_batches_for_cuda_take_the_side_stream(streams, monkeypatch):
    data = ImageDataModule("fake", img_size=8, batch_size=4, num_images=8)
    assert (data.transfer_batch_to_device(torch.ones(1), CPU, 0), data.side_stream) == (1, None)
    monkeypatch.setattr("fvit.data.datamodule.SideStream", lambda device: transfer.SideStream(CPU))
    for _ in range(2):
        data.transfer_batch_to_device(torch.ones(1), torch.device("cuda"), 0)
        side = data.side_stream
    assert data.side_stream is side
    assert streams.log.count("copy on side") == 2


class Positions(Probe):
    def __init__(self):
        super().__init__()
        self.seen = []

    def on_train_batch_start(self, trainer, module, batch, batch_idx):
        self.seen.append(trainer.datamodule.positions.tolist())


def test_a_run_takes_the_same_batches_and_resumes_within_an_epoch(streams, monkeypatch, compose_config, tmp_path):
    """As without a side stream: batches are copied in order, and none ahead of its step."""
    recipe = (*FAKE, "logger=none", "augment=deit", f"output_dir={tmp_path / 'run'}")
    plain = fit(compose_config(*recipe, "callbacks=none"), Positions())
    side = transfer.SideStream(CPU)
    monkeypatch.setattr(ImageDataModule, "transfer_batch_to_device", lambda data, batch, device, index: side(batch))
    limits = ("trainer.max_epochs=null", "~callbacks.best", "callbacks.last.every_n_train_steps=1")
    first = fit(compose_config(*recipe, *limits, "+trainer.max_steps=2"), Positions())
    rest = fit(compose_config(*recipe, *limits, "+trainer.max_steps=4", f"ckpt_path={tmp_path / 'run'}"), Positions())
    assert first.seen + rest.seen == plain.seen
    assert streams.log.count("copy on side") >= 4
