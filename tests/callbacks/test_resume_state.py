"""A run that is killed and resumed ends with the bits of one that was not."""

import shutil

import pytest
import torch

from fvit.callbacks.last_checkpoint import LastCheckpoint
from tests.stopped import NOISY, curve, differences, last
from tests.training.fitting import Probe, fit

EPOCH = (
    *NOISY,
    "data=digits",
    "global_batch_size=16",
    "++trainer.limit_train_batches=6",
    "+trainer.limit_val_batches=2",
)
RUN = (*EPOCH, "trainer.max_epochs=4")


class Killed(BaseException):
    """Stands for SIGKILL."""


class KillAt(Probe):
    """Ends the run the n-th time that a hook is called."""

    def __init__(self, hook, count):
        super().__init__()
        self.left = count
        setattr(self, hook, self._count)

    def _count(self, *args):
        self.left -= 1
        if self.left == 0:
            raise Killed


slow = pytest.mark.slow  # several seconds each; the others cover most of it
exhaustive = [slow, pytest.mark.exhaustive]  # other slow ones cover it together

EVERY = "callbacks.last.every_n_train_steps"


@pytest.mark.parametrize(
    "overrides",
    [
        pytest.param([f"{EVERY}=3"], id="before validation", marks=exhaustive),
        pytest.param(
            [f"{EVERY}=2", "micro_batch_size=8", "++trainer.limit_train_batches=12"],
            id="accumulating",
            marks=exhaustive,
        ),
        pytest.param([f"{EVERY}=2", "+trainer.val_check_interval=3"], id="validation within", marks=slow),
        pytest.param(
            ["micro_batch_size=8", "++trainer.limit_train_batches=12", "+trainer.val_check_interval=0.25"],
            id="validation within, accumulating",
            marks=exhaustive,
        ),
        pytest.param([f"{EVERY}=1"], id="each step", marks=exhaustive),
        pytest.param([], id="each epoch", marks=slow),
        pytest.param([f"{EVERY}=2", "+trainer.check_val_every_n_epoch=2"], id="validation at times", marks=exhaustive),
        pytest.param(["+trainer.max_steps=20"], id="so many steps", marks=exhaustive),
    ],
)
def test_run_killed_anywhere_ends_with_the_same_bits(compose_config, tmp_path, overrides):
    def run(name, probe=None):
        resume = [f"output_dir={tmp_path / name}", "ckpt_path=last"]
        return fit(compose_config(*dict.fromkeys([*RUN, *overrides]), *resume), probe)

    run("whole")
    kills = 0
    for hook, count in (
        ("on_train_batch_start", 3),
        ("on_validation_batch_end", 1),
        ("on_validation_batch_end", 2),
        ("on_train_batch_end", 2),
        ("on_validation_start", 1),
        ("on_train_epoch_end", 1),
        ("on_train_batch_start", 8),
        ("on_train_end", 1),
    ):
        try:
            run("killed", KillAt(hook, count))
        except Killed:
            kills += 1
    assert kills >= 6
    probe = run("killed")
    assert probe.losses == []  # everything was trained
    assert differences(last(tmp_path / "whole"), last(tmp_path / "killed")) == []
    assert curve(tmp_path / "killed") == curve(tmp_path / "whole")


@pytest.mark.parametrize(
    "steps", [pytest.param(12, id="at the end of an epoch", marks=slow), pytest.param(15, id="within an epoch")]
)
@pytest.mark.slow
def test_ended_run_resumes_with_more_steps(compose_config, tmp_path, steps):
    def run(name, steps):
        resume = [f"output_dir={tmp_path / name}", "ckpt_path=last", f"+trainer.max_steps={steps}"]
        return fit(compose_config(*RUN, "scheduler=constant", *resume))

    run("whole", 20)
    run("ended", steps)
    assert len(run("ended", 20).losses) == 20 - steps
    assert differences(last(tmp_path / "whole"), last(tmp_path / "ended")) == []


FEW = (*EPOCH, "trainer.max_epochs=2", f"{EVERY}=2")


@pytest.fixture
def stopped(compose_config, tmp_path):
    """Kills a run in its first epoch; without a hook, resumes it."""

    def run(name="run", hook=None, count=None, *overrides):
        config = compose_config(*FEW, f"output_dir={tmp_path / name}", "ckpt_path=last", *overrides)
        if hook is None:
            return fit(config)
        with pytest.raises(Killed):
            fit(config, KillAt(hook, count))
        return tmp_path / name

    return run


@pytest.mark.slow
def test_previous_checkpoint_replaces_a_truncated_one(stopped, tmp_path, capsys):
    stopped("whole")
    path = stopped("run", "on_train_batch_start", 6) / "checkpoints" / "last.ckpt"
    path.write_bytes(path.read_bytes()[:1000])
    capsys.readouterr()
    probe = stopped("run")
    assert f"{path} (1000 bytes) is damaged or truncated, using the one before it" in capsys.readouterr().out
    assert len(probe.losses) == 10  # from step 2 of 12
    assert differences(last(tmp_path / "whole"), last(tmp_path / "run")) == []


@pytest.mark.slow
def test_moved_run_directory_keeps_its_best_score(stopped, tmp_path):
    old = stopped("run", "on_train_batch_start", 8)
    shutil.move(old, tmp_path / "moved")
    best = last(tmp_path / "moved")
    probe = stopped("moved", None, None)
    [callback] = [callback for callback in probe.trainer.checkpoint_callbacks if callback.monitor]
    stored = next(state for state in best["callbacks"].values() if "best_model_score" in state)
    assert callback.best_model_score >= stored["best_model_score"] > 0
    assert callback.best_model_path == str(tmp_path / "moved" / "checkpoints" / "best.ckpt")


@pytest.mark.slow
def test_dropout_is_seeded_anew_on_another_number_of_processes(stopped, tmp_path, capsys):
    path = stopped("run", "on_train_batch_start", 6) / "checkpoints" / "last.ckpt"
    content = torch.load(path, weights_only=True)
    content["rank_states"] *= 2
    torch.save(content, path)
    capsys.readouterr()
    stopped("run")
    assert "The checkpoint is from 2 processes and this run has 1: dropout is seeded anew" in capsys.readouterr().out


class SaveInValidation(Probe):
    """Saves a checkpoint in the first validation, as on a signal, and ends the run."""

    def on_validation_batch_end(self, trainer, module, *args):
        trainer.save_checkpoint(trainer.checkpoint_callbacks[-1].path)
        raise Killed


@pytest.mark.slow
def test_interrupted_validation_is_repeated(stopped, compose_config, tmp_path):
    stopped("whole")
    config = compose_config(*FEW, f"output_dir={tmp_path / 'run'}")
    with pytest.raises(Killed):
        fit(config, SaveInValidation())
    assert last(tmp_path / "run")["global_step"] == 6
    stopped("run")
    assert differences(last(tmp_path / "whole"), last(tmp_path / "run")) == []
    assert curve(tmp_path / "run") == curve(tmp_path / "whole")


@pytest.mark.slow
def test_row_is_not_lost_between_the_checkpoint_and_metrics_csv(stopped, tmp_path, monkeypatch):
    stopped("whole")
    save, saved = LastCheckpoint._save, []

    def save_and_kill(self, trainer):
        save(self, trainer)
        if trainer.global_step not in saved or trainer.global_step == 12:
            saved.append(trainer.global_step)
            raise Killed

    monkeypatch.setattr(LastCheckpoint, "_save", save_and_kill)
    # Within the epochs, before their validations, and at the very end.
    for _ in range(7):
        with pytest.raises(Killed):
            stopped("run")
    monkeypatch.undo()
    assert saved == [2, 4, 6, 8, 10, 12, 12]
    stopped("run")
    assert curve(tmp_path / "run") == curve(tmp_path / "whole")
