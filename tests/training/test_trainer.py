"""The Trainer that a configuration describes."""

import pytest
import torch
from hydra.errors import InstantiationException
from lightning import Trainer
from lightning.pytorch.callbacks import Checkpoint, ProgressBar

from fvit.config.batch_plan import plan_batches
from fvit.training import trainer as trainer_module
from fvit.training.trainer import build_trainer


@pytest.fixture
def build(compose_config):
    """A Trainer for steps of 64 images, in micro batches of 16 unless said otherwise; an epoch has 11 steps."""

    def make(*overrides, micro=16, images=64 * 11):
        return build_trainer(compose_config("logger=none", *overrides), plan_batches(64, 1, micro), images)

    return make


@pytest.mark.parametrize(
    ("micro", "asked", "batches"), [(16, 0.25, 8), (16, 0.01, 4), (16, 12, 12), (16, 1.0, 1.0), (64, 0.25, 2)]
)
def test_validations_follow_whole_steps(build, micro, asked, batches):
    trainer = build(f"+trainer.val_check_interval={asked}", micro=micro)
    assert trainer.val_check_interval == batches
    assert trainer.accumulate_grad_batches == 64 // micro


@pytest.mark.parametrize(
    ("interval", "message"),
    [
        (10, "val_check_interval=10 batches end within an optimizer step, .* 4; use 8 or 12"),
        (3, "; use 4$"),
        (48, "val_check_interval=48 is more than the 44 batches of an epoch"),
    ],
)
def test_other_intervals_are_refused(build, interval, message):
    with pytest.raises(ValueError, match=message):
        build(f"+trainer.val_check_interval={interval}")


def test_ctrl_c_while_a_callback_is_imported_is_no_error_of_its_module(build, tmp_path, monkeypatch):
    (tmp_path / "slow.py").write_text("raise KeyboardInterrupt")
    monkeypatch.syspath_prepend(tmp_path)
    with pytest.raises(KeyboardInterrupt):
        build("+callbacks.own._target_=slow.Callback")
    with pytest.raises(InstantiationException, match=r"Error locating target 'absent\.Callback'"):
        build("+callbacks.own._target_=absent.Callback")


def test_static_graph_with_accumulation_is_refused(build):
    """torch: expect_autograd_hooks_ INTERNAL ASSERT FAILED."""
    static = ("hardware=ddp_cpu", "ddp.static_graph=true")
    assert build(*static, micro=64).accumulate_grad_batches == 1
    with pytest.raises(ValueError, match="accumulated, here over 4 micro batches: leave it out, or raise micro_batch"):
        build(*static)


def test_interval_may_count_across_epochs(build):
    interval = ("+trainer.val_check_interval=48", "+trainer.check_val_every_n_epoch=null")
    assert build(*interval).val_check_interval == 48


@pytest.mark.parametrize(
    ("overrides", "benchmark"),
    [
        ((), True),
        (("trainer.deterministic=true",), False),
        (("trainer.benchmark=false",), False),
        (("hardware=cpu", "tf32=false"), False),
    ],
    ids=str,
)
def test_cudnn_tries_its_algorithms_on_gpus_unless_that_changes_bits(compose_config, monkeypatch, overrides, benchmark):
    asked = {}

    class NoTrainer(Trainer):
        def __init__(self, **options):
            asked.update(options)

    monkeypatch.setattr(trainer_module, "Trainer", NoTrainer)
    monkeypatch.setattr(trainer_module, "check_arguments", lambda *arguments: None)
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 1)
    build_trainer(compose_config("hardware=gpu", "logger=none", "callbacks=none", *overrides))
    assert asked["benchmark"] is benchmark


@pytest.mark.parametrize(
    ("overrides", "steps"),
    [
        ((), 10),
        (("trainer.log_every_n_steps=50",), 11),
        (("+trainer.limit_train_batches=6",), 2),
        (("+trainer.limit_train_batches=0.5",), 6),
        (("+trainer.overfit_batches=1",), 1),
        (("+trainer.fast_dev_run=true",), 1),
    ],
    ids=str,
)
def test_every_epoch_logs_a_step(build, overrides, steps):
    assert build(*overrides).log_every_n_steps == steps


def test_callbacks_are_those_of_the_configuration_in_its_order(build, compose_config):
    named = [callback["_target_"].rpartition(".")[2] for callback in compose_config()["callbacks"].values()]
    assert [type(callback).__name__ for callback in build().callbacks] == named
    # Lightning moves checkpoint callbacks to the end.
    ema = [type(callback).__name__ for callback in build("callbacks=[default,ema]").callbacks]
    assert ema == [*named[:-2], "EMA", *named[-2:]]


@pytest.mark.parametrize(
    ("overrides", "missing"),
    [(("~callbacks.best", "~callbacks.last"), Checkpoint), (("~callbacks.progress",), ProgressBar)],
)
def test_lightning_adds_no_callback_that_was_removed(build, overrides, missing):
    assert not any(isinstance(callback, missing) for callback in build(*overrides).callbacks)
    assert build("callbacks=none").callbacks == []
