from types import SimpleNamespace

import pytest
from lightning.pytorch.trainer.states import TrainerFn

from fvit.callbacks.device_hours import DeviceHours
from tests.callbacks.test_throughput import Recorder


def trainer(devices):
    return SimpleNamespace(world_size=devices, state=SimpleNamespace(fn=TrainerFn.FITTING))


def after(hours, clock, module, counter, devices):
    clock.now += 3600 * hours
    counter.on_validation_epoch_end(trainer(devices), module)
    return module.logged["progress/device_hours"]


def test_hours_are_counted_on_all_devices_and_on_from_a_checkpoint(clock):
    module, first = Recorder(), DeviceHours()
    first.on_train_start(trainer(4), module)
    assert after(2, clock, module, first, devices=4) == pytest.approx(8)
    then = DeviceHours()
    then.load_state_dict(first.state_dict())
    clock.now += 3600  # in which nothing ran
    then.on_train_start(trainer(1), module)
    assert after(0.5, clock, module, then, devices=1) == pytest.approx(8.5)
