import os
import sys
from pathlib import Path
from types import SimpleNamespace

import pytest
import torch
from torch import nn

from fvit.callbacks.nonfinite import NonFiniteGuard
from fvit.config.errors import RunError
from fvit.launch.record import read_metrics
from fvit.train import train
from fvit.training import Classifier
from tests.training.fitting import BARE, FAKE, Probe, fit


def test_nan_loss_ends_the_run_and_keeps_the_last_checkpoint(compose_config, tmp_path, monkeypatch):
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


@pytest.mark.parametrize("value", [float("nan"), float("inf"), float("-inf")])
def test_first_loss_and_weight_that_are_not_finite_are_found(value):
    strategy = SimpleNamespace(reduce=lambda tensor, reduce_op: tensor, reduce_boolean_decision=bool)
    loop = SimpleNamespace(total_batch_idx=9)
    place = dict(current_epoch=1, global_step=5, checkpoint_callbacks=[], ckpt_path=None)
    trainer, guard = SimpleNamespace(strategy=strategy, fit_loop=loop, **place), NonFiniteGuard()
    guard._losses = [torch.tensor(1.0), torch.tensor(value), torch.tensor(2.0)]
    with pytest.raises(RunError, match=r"the training loss is not finite since batch 8 \(epoch 1\)"):
        guard.on_train_epoch_end(trainer, nn.Linear(2, 2))
    module = nn.Linear(2, 2)
    guard.on_save_checkpoint(trainer, module, {})
    module.weight.data[1, 0] = value
    with pytest.raises(RunError, match=r"the weights are not finite after step 5 \(epoch 1\)"):
        guard.on_save_checkpoint(trainer, module, {})


class PoisonGradient(Probe):
    """Makes the gradient of one step NaN, clipped or not."""

    def __init__(self, step):
        super().__init__()
        self.step = step

    def on_before_optimizer_step(self, trainer, module, optimizer):
        if trainer.global_step == self.step:
            module.model.head.weight.grad[0, 0] = float("nan")


@pytest.mark.parametrize("callbacks", [pytest.param("default", marks=pytest.mark.exhaustive), "[default,ema]"])
@pytest.mark.slow
def test_nan_weights_are_not_saved(compose_config, tmp_path, callbacks):
    """The losses up to the last step of an epoch, whose gradient is poisoned, are all finite."""
    length = ("trainer.max_epochs=3", f"callbacks={callbacks}")
    last = tmp_path / "run" / "checkpoints" / "last.ckpt"
    with pytest.raises(
        RunError, match=r"the weights are not finite after step 8 \(epoch 1\) because its gradient was not"
    ) as caught:
        fit(compose_config(*BARE, *length), PoisonGradient(7))
    assert f"The last good checkpoint is {last}. Try a smaller optimizer.lr" in str(caught.value)
    for path in last.parent.iterdir():
        saved = torch.load(path, weights_only=True)
        assert saved["epoch"] == 0
        assert all(weight.isfinite().all() for weight in saved["state_dict"].values())
    # A resumed run that has saved nothing yet.
    with pytest.raises(RunError, match="after step 8") as caught:
        fit(compose_config(*BARE, *length, f"ckpt_path={last}"), PoisonGradient(7))
    assert f"The last good checkpoint is {last}." in str(caught.value)


@pytest.mark.slow
def test_nan_on_one_rank_ends_all_ranks_with_the_same_message(fvit, tmp_path):
    path = os.pathsep.join([str(Path(__file__).parents[2]), *sys.path])
    # In place of a callback that acts before the guard.
    poison = ("callbacks.media._target_=tests.moments.PoisonLoss", "+callbacks.media.rank=1")
    run = tmp_path / "run"
    done = fvit("train", *FAKE, "logger=none", *poison, "hardware=ddp_cpu", f"hydra.run.dir={run}", PYTHONPATH=path)
    assert done.returncode == 1
    error = read_metrics(run)["error"]
    assert error.startswith("the training loss is not finite since batch 3 (epoch 0). Try a smaller optimizer.lr")
    assert error in done.stderr
    assert (run / "rank-1.log").read_text().strip().endswith(error)
