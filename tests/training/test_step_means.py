import csv

import pytest
import torch

from fvit.training.step_means import StepMeans

from .fitting import FAKE, fit


def test_means_are_over_micro_batches_and_ranks_and_begin_anew(monkeypatch):
    # A neighbour whose losses are twice as large.
    monkeypatch.setattr(torch.distributed, "all_reduce", lambda tensor: tensor.mul_(3))
    means = StepMeans()
    for losses in ((1.0, 10.0), (2.0, 20.0)):
        means.add({"a": torch.tensor(losses[0], requires_grad=True), "b": torch.tensor(losses[1])})
    found = means.take(world_size=2)
    assert {name: value.item() for name, value in found.items()} == {"a": 2.25, "b": 22.5}
    assert not found["a"].requires_grad
    means.add({"a": torch.tensor(4.0)})
    assert {name: value.item() for name, value in means.take(world_size=1).items()} == {"a": 4.0}


@pytest.mark.filterwarnings("ignore:.*LeafSpec.*:FutureWarning")
def test_the_loss_of_a_step_does_not_depend_on_how_it_is_accumulated(compose_config, tmp_path):
    columns = []
    for micro in (16, 8, 4):
        folder = f"output_dir={tmp_path / str(micro)}"
        fit(compose_config(*FAKE, "augment=deit", "callbacks=none", f"micro_batch_size={micro}", folder))
        with (tmp_path / str(micro) / "csv" / "metrics.csv").open(newline="") as file:
            columns.append([float(row["train/loss"]) for row in csv.DictReader(file) if row["train/loss"]])
    assert len(columns[0]) == 4
    assert columns[1] == pytest.approx(columns[0], rel=1e-5)
    assert columns[2] == pytest.approx(columns[0], rel=1e-5)
