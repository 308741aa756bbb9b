"""Signals in this process; tests/test_stopping.py sends them to whole command lines."""

import itertools
import signal
import time
from types import SimpleNamespace

import pytest
import torch

from fvit.callbacks.preemption import Preemption
from fvit.launch import signals
from fvit.launch.record import read_metrics
from fvit.launch.signals import Stopped
from fvit.train import train
from tests.moments import Tell

TINY = [
    "data=fake",
    "data.num_images=64",
    "data.eval_batch_size=4",
    "model.embed_dim=24",
    "model.depth=1",
    "global_batch_size=16",
    "trainer.max_epochs=3",
    "scheduler.warmup_epochs=1",
    "logger=none",
]


def _tell(stage, epoch, batch):
    path = "+callbacks.tell._target_=tests.moments.Tell"
    return [path, f"+callbacks.tell.stage={stage}", f"+callbacks.tell.epoch={epoch}", f"+callbacks.tell.batch={batch}"]


def _stop_and_resume(compose_config, folder, moment, options):
    """The message of the interruption, after which the run is resumed to its end."""
    config = compose_config(*TINY, *options, *_tell(*moment), f"output_dir={folder}")
    with pytest.raises(Stopped) as caught:
        train(config)
    assert read_metrics(folder)["status"] == "interrupted"
    assert read_metrics(folder)["error"] == str(caught.value)
    train(compose_config(*TINY, *options, f"output_dir={folder}", f"ckpt_path={folder}"))
    assert read_metrics(folder)["status"] == "finished"
    return str(caught.value)


def _ends(folder):
    """The last checkpoint, and in it the state of the best one's callback."""
    content = torch.load(folder / "checkpoints" / "last.ckpt", weights_only=True)
    best = next(state for name, state in content["callbacks"].items() if "val/acc1" in name)
    return content, best


EMA = "callbacks=[default,ema]"


@pytest.mark.parametrize(
    ("moment", "options", "where"),
    [
        (("training", 1, 1), [], "at step 7 (epoch 2)"),
        pytest.param(("training", 1, 0), ["micro_batch_size=8"], "at step 5 (epoch 2)", marks=pytest.mark.slow),
        pytest.param(("training", 1, 3), [], "in the validation after step 8 (epoch 2)", marks=pytest.mark.slow),
        pytest.param(("validation", 1, 0), [], "in the validation after step 8 (epoch 2)", marks=pytest.mark.slow),
        pytest.param(
            ("training", 1, 1),
            ["+trainer.val_check_interval=2"],
            "in the validation after step 6 (epoch 2)",
            marks=pytest.mark.slow,
        ),
        pytest.param(("validation", 0, 1), [EMA], "in the validation after step 4 (epoch 1)", marks=pytest.mark.slow),
        pytest.param(
            ("validation", 2, 0),
            ["+trainer.val_check_interval=2"],
            "in the validation after step 10 (epoch 3)",
            marks=pytest.mark.slow,
        ),
        pytest.param(
            ("validation", 2, 1),
            ["data.num_workers=1"],
            "in the validation after step 12 (epoch 3)",
            marks=pytest.mark.slow,
        ),
    ],
    ids=["step", "accumulating", "last step", "validation", "before it", "EMA", "middle validation", "last validation"],
)
def test_stopped_run_resumes_to_the_same_end(compose_config, tmp_path, moment, options, where):
    torch.use_deterministic_algorithms(True)
    try:
        train(compose_config(*TINY, *options, f"output_dir={tmp_path / 'whole'}"))
        text = _stop_and_resume(compose_config, tmp_path / "stopped", moment, options)
    finally:
        torch.use_deterministic_algorithms(False)
    last = tmp_path / "stopped" / "checkpoints" / "last.ckpt"
    assert text == f"stopped by SIGTERM {where}; saved {last}, resume with ckpt_path={tmp_path / 'stopped'}"
    (whole, best), (stopped, best_stopped) = (_ends(tmp_path / name) for name in ("whole", "stopped"))
    torch.testing.assert_close(stopped["state_dict"], whole["state_dict"], rtol=0, atol=0)
    torch.testing.assert_close(stopped["optimizer_states"], whole["optimizer_states"], rtol=0, atol=0)
    assert (stopped["epoch"], stopped["global_step"]) == (whole["epoch"], whole["global_step"])
    assert best_stopped["best_model_score"] == best["best_model_score"]
    assert best_stopped["current_score"] == best["current_score"]
    assert stopped["loops"] == whole["loops"]  # it could be stopped again


def test_message_says_that_there_is_no_checkpoint(compose_config, tmp_path):
    with pytest.raises(Stopped, match=r"at step 7 \(epoch 2\); no checkpoint was saved, because no callback saves any"):
        train(compose_config(*TINY, "~callbacks.best", "~callbacks.last", *_tell("training", 1, 1)))
    assert not list(tmp_path.rglob("*.ckpt"))


def test_signal_in_the_last_batch_does_not_interrupt(compose_config, tmp_path):
    with signals.listening():
        train(compose_config(*TINY, *_tell("validation", 2, 3)))
        assert signals.received() == signal.SIGTERM  # for whoever would start the next job
    assert read_metrics(tmp_path / "run")["status"] == "finished"


@pytest.mark.slow
def test_lightnings_handlers_are_removed(compose_config, monkeypatch):
    seen = []
    monkeypatch.setattr(Tell, "on_train_start", lambda *_: seen.append(signal.getsignal(signal.SIGTERM)))
    before = signal.getsignal(signal.SIGTERM)
    train(compose_config(*TINY, "trainer.max_epochs=1", "scheduler.warmup_epochs=0", *_tell("training", 9, 9)))
    assert seen == [signals._handle]
    assert signal.getsignal(signal.SIGTERM) is before


def test_ranks_agree_about_once_per_second(monkeypatch):
    """At 10 ms per batch, on two ranks of which the other is slower."""
    asked, now = [], [0.0]
    preemption, trainer = Preemption(), SimpleNamespace(world_size=2)
    monkeypatch.setattr(time, "monotonic", lambda: now[0])

    def reduce(trainer, numbers, operation):
        asked.append(now[0])
        return [0, max(numbers[1], -20)]

    monkeypatch.setattr("fvit.callbacks.preemption._reduce", reduce)
    preemption._reset()
    for _ in range(400):
        now[0] += 0.01
        if preemption._is_due(trainer):
            preemption._end_if_agreed(trainer, "")
    gaps = [round(100 * (later - sooner)) for sooner, later in itertools.pairwise(asked)]
    assert gaps[:6] == [2, 4, 8, 16, 20, 20]
    assert set(gaps[5:]) == {20}
