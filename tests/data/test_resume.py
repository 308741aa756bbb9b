"""A resumed run sees exactly the pixels that it would have seen without the interruption."""

import itertools

import pytest
import torch

from fvit.data.images import DataError

from .resuming import EPOCHS, STEPS, EachEpoch, EachStep, by_step, train, train_on_ranks

pytestmark = [
    pytest.mark.filterwarnings("ignore:You're resuming from a checkpoint that ended before"),
    pytest.mark.filterwarnings("ignore:Checkpoint directory .* exists and is not empty"),
    pytest.mark.filterwarnings("ignore:Be aware that when using `ckpt_path`, callbacks used to create"),
    pytest.mark.filterwarnings("ignore:The dirpath has changed from"),
    # Ranks and workers are forked from a process with threads, as torch has.
    pytest.mark.filterwarnings("ignore:.*use of fork\\(\\) may lead to deadlocks:DeprecationWarning"),
]


@pytest.fixture(scope="module")
def uninterrupted(tmp_path_factory):
    """An uninterrupted run and the folder of its checkpoints."""
    folder = tmp_path_factory.mktemp("run")
    callbacks = [EachStep(folder), EachEpoch(folder), EachEpoch(folder, "end", save_on_train_epoch_end=True)]
    seen = train(callbacks=callbacks)
    assert [(epoch, batch) for epoch, batch, _ in seen] == list(itertools.product(range(EPOCHS), range(STEPS)))
    return seen, folder


def test_epochs_differ_and_runs_do_not(uninterrupted):
    seen, _ = uninterrupted
    assert len({digests for _, _, digests in seen}) == EPOCHS * STEPS
    assert train(workers=2) == seen


@pytest.mark.parametrize(
    ("step", "workers"),
    [
        *((4, 2), (2 * STEPS + 3, 1)),
        *(
            pytest.param(*case, marks=pytest.mark.slow)
            for case in ((1, 0), (STEPS - 1, 0), (STEPS - 1, 1), (STEPS, 0), (STEPS, 2), (STEPS + 1, 0))
        ),
    ],
)
def test_resume_after_any_step(uninterrupted, step, workers):
    seen, folder = uninterrupted
    # With estimated_stepping_batches, Lightning asks for loaders early, otherwise late.
    for asks_for_length in (True, False):
        assert train(folder / f"step-{step}.ckpt", workers=workers, asks_for_length=asks_for_length) == seen[step:]


@pytest.mark.parametrize("name", ["epoch", "end"])
@pytest.mark.parametrize("epoch", [0, pytest.param(2, marks=pytest.mark.slow)])
def test_resume_after_an_epoch(uninterrupted, name, epoch):
    seen, folder = uninterrupted
    assert train(folder / f"{name}-{epoch}.ckpt", workers=1) == seen[(epoch + 1) * STEPS :]


@pytest.mark.parametrize("step", [3, pytest.param(STEPS, marks=pytest.mark.slow)])
def test_second_resume_within_an_epoch(uninterrupted, tmp_path, step):
    seen, folder = uninterrupted
    part = train(folder / f"step-{step}.ckpt", [EachStep(tmp_path)], max_steps=step + 3)
    assert part == seen[step : step + 3]
    assert train(tmp_path / f"step-{step + 3}.ckpt", workers=2) == seen[step + 3 :]


@pytest.mark.parametrize("step", [3, pytest.param(STEPS, marks=pytest.mark.slow)])
def test_resume_with_other_micro_batches(uninterrupted, tmp_path, step):
    seen, folder = uninterrupted
    accumulated = train(folder / f"step-{step}.ckpt", accumulate=2)
    assert by_step(accumulated, accumulate=2) == seen[step:]
    # And back again.
    train(folder / f"step-{step}.ckpt", [EachStep(tmp_path)], accumulate=2, max_steps=step + 2)
    assert train(tmp_path / f"step-{step + 2}.ckpt", workers=1) == seen[step + 2 :]


def test_micro_batches_of_an_incomplete_step_are_repeated(tmp_path):
    class EachBatch(EachStep):
        """Also within a step."""

        def on_train_batch_end(self, trainer, module, outputs, batch, batch_idx):
            trainer.save_checkpoint(tmp_path / f"batch-{trainer.fit_loop.total_batch_idx + 1}.ckpt")

    seen = train(callbacks=[EachBatch(tmp_path)], accumulate=2, epochs=2)
    assert train(tmp_path / "batch-7.ckpt", accumulate=2, epochs=2) == seen[6:]
    assert train(tmp_path / "batch-8.ckpt", accumulate=2, epochs=2) == seen[8:]


@pytest.mark.slow
@pytest.mark.parametrize("step", [3, pytest.param(STEPS, marks=pytest.mark.exhaustive)])
def test_resume_on_another_number_of_ranks(uninterrupted, tmp_path, step):
    seen, folder = uninterrupted
    ranks = train_on_ranks(2, ckpt_path=folder / f"step-{step}.ckpt", workers=1)
    assert len(ranks[0]) == len(ranks[1]) == len(seen) - step
    assert by_step(*ranks) == seen[step:]
    train_on_ranks(2, ckpt_path=folder / f"step-{step}.ckpt", callbacks=[EachStep(tmp_path)], max_steps=step + 2)
    assert train(tmp_path / f"step-{step + 2}.ckpt") == seen[step + 2 :]


def test_limited_epochs(tmp_path):
    seen = train(callbacks=[EachStep(tmp_path)], limit_train_batches=4)
    for step in (3, 4, 5):
        assert train(tmp_path / f"step-{step}.ckpt", limit_train_batches=4) == seen[step:]


def test_other_data_within_an_epoch_is_rejected(uninterrupted, tmp_path):
    _, folder = uninterrupted
    checkpoint = torch.load(folder / "step-3.ckpt", weights_only=True)
    [state] = [value for key, value in checkpoint.items() if key.endswith("DataModule")]
    state["images"] += 1
    torch.save(checkpoint, tmp_path / "other.ckpt")
    with pytest.raises(DataError, match="within an epoch of 44 training images, but there are now 43"):
        train(tmp_path / "other.ckpt")
