import random

import numpy as np
import pytest
import torch
from torch import nn
from torchmetrics.classification import MulticlassAccuracy

from fvit.callbacks import random_states

CPU = torch.device("cpu")


def _draw():
    # numpy's old generator draws normal numbers in pairs and keeps one.
    return [random.random(), random.gauss(), *np.random.normal(size=3), *torch.rand(2).tolist()]  # noqa: NPY002


def test_all_generators_are_restored(tmp_path):
    _draw()
    torch.save(random_states._random_states(CPU), tmp_path / "states")
    expected = [_draw() for _ in range(3)]
    random_states._set_random_states(torch.load(tmp_path / "states", weights_only=True), CPU)
    assert [_draw() for _ in range(3)] == expected


def _module():
    module = nn.Module()
    module.train_acc1, module.val_acc1 = (MulticlassAccuracy(4, average="micro") for _ in range(2))
    return module


@pytest.mark.parametrize("world", [1, 2, 3])
def test_training_metrics_are_kept_on_any_number_of_ranks(world):
    """Those of two ranks."""
    before, shares = [_module(), _module()], []
    labels = torch.tensor([[0, 1, 2], [3, 3, 0]])
    for module, own in zip(before, labels, strict=True):
        module.train_acc1.update(torch.tensor([0, 1, 3]), own)
        module.val_acc1.update(torch.tensor([0]), torch.tensor([0]))
        shares.append(random_states._metric_states(module))
    after = [_module() for _ in range(world)]
    for rank, module in enumerate(after):
        random_states._add_metric_states(module, shares[rank::world])
        assert not module.val_acc1.update_called
    right = sum(module.train_acc1.tp for module in after)
    wrong = sum(module.train_acc1.fn for module in after)
    assert (right.item(), wrong.item()) == (2, 4)
    assert [module.train_acc1.update_called for module in after] == [True] * world
