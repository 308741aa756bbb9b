import time

import pytest
import torch

from fvit.run.throughput import Throughput, peak_gib


def test_only_training_counts(monkeypatch):
    clock = iter([0.0, 5.0, 6.0, 7.0, 107.0, 108.0])
    monkeypatch.setattr(time, "perf_counter", lambda: next(clock))
    throughput = Throughput(images_per_step=32, warmup=1)
    throughput.on_train_epoch_start(None, None)
    throughput.on_train_batch_end(None, None)  # 5 s of warm-up
    throughput.on_train_batch_end(None, None)  # 1 s
    throughput.on_train_batch_end(None, None)  # 1 s
    throughput.on_validation_end(None, None)  # 100 s
    throughput.on_train_batch_end(None, None)  # 1 s
    assert throughput.images_per_s == pytest.approx(32)


def test_nothing_measured_is_zero():
    assert Throughput(images_per_step=32).images_per_s == 0.0


def test_peak_memory_of_this_process_grows_by_what_it_takes():
    before = peak_gib(torch.device("cpu"))
    block = torch.ones(2**28)  # 1 GiB
    assert peak_gib(torch.device("cpu")) >= min(before, 0.9)
    assert peak_gib(torch.device("cpu")) >= 0.9
    del block
