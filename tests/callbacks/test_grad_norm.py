import csv

import pytest
import torch
from torch.nn.utils import clip_grad_norm_

from fvit.callbacks import grad_norm
from tests.training.fitting import FAKE, fit


@pytest.fixture
def norms(monkeypatch):
    """What torch's clipping finds, step by step."""
    found = []

    def clip(parameters, *arguments, **options):
        found.append(clip_grad_norm_(parameters, *arguments, **options))
        return found[-1]

    monkeypatch.setattr(torch.nn.utils, "clip_grad_norm_", clip)
    return found


def logged(folder):
    with (folder / "csv" / "metrics.csv").open(newline="") as file:
        return [float(row["grad_norm"]) for row in csv.DictReader(file) if row.get("grad_norm")]


@pytest.mark.parametrize("accumulated", [(), ("micro_batch_size=8",)], ids=["whole", "accumulated"])
def test_it_is_the_norm_before_clipping(compose_config, tmp_path, norms, accumulated):
    fit(compose_config(*FAKE, "trainer.gradient_clip_val=0.01", *accumulated))
    assert len(norms) == 4
    assert min(norms) > 0.01
    assert logged(tmp_path / "run") == pytest.approx([norm.item() for norm in norms], rel=1e-5)


def test_only_steps_that_are_logged_pay_for_it(compose_config, tmp_path, monkeypatch):
    calls = []
    monkeypatch.setattr(grad_norm, "get_total_norm", lambda gradients: calls.append(1) or torch.tensor(2.0))
    fit(compose_config(*FAKE, "trainer.log_every_n_steps=2", "trainer.gradient_clip_val=null"))
    assert logged(tmp_path / "run") == [2.0, 2.0]
    assert len(calls) == 2
