import pytest
import torch

from fvit.run.errors import RunError
from fvit.run.record import read_metrics
from fvit.train import train
from fvit.training import Classifier


def test_a_loss_that_is_no_number_stops_the_run_and_keeps_the_last_checkpoint(compose_config, tmp_path, monkeypatch):
    config = compose_config("debug=limit", "data=fake", "trainer.max_epochs=4")
    step = Classifier.training_step

    def poisoned(self, batch, batch_idx):
        loss = step(self, batch, batch_idx)
        return loss * float("nan") if self.current_epoch == 2 and batch_idx == 1 else loss

    monkeypatch.setattr(Classifier, "training_step", poisoned)
    with pytest.raises(RunError, match=r"not finite since batch 9 \(epoch 2\)") as caught:
        train(config)
    last = tmp_path / "run" / "checkpoints" / "last.ckpt"
    assert str(last) in str(caught.value)
    assert "optimizer.lr" in str(caught.value)
    saved = torch.load(last, weights_only=True)
    assert saved["epoch"] == 1
    assert all(weight.isfinite().all() for weight in saved["state_dict"].values())
    assert read_metrics(tmp_path / "run")["status"] == "failed"
