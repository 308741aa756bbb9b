"""A run in a study: what it reports, when it is pruned, and what it records."""

import json

import optuna
import pytest

from fvit.config.errors import RunError
from fvit.search.study import connected
from fvit.train import train

TINY = ["data=fake", "data.num_images=64", "model.embed_dim=24", "model.depth=1", "global_batch_size=16"]
THREE_EPOCHS = [*TINY, "debug=limit", "logger=none"]
THRESHOLD = {"_target_": "optuna.pruners.ThresholdPruner", "n_warmup_steps": 0}


@pytest.fixture
def storage(tmp_path):
    """The URL of a database with a study of one running trial."""
    url = f"sqlite:///{tmp_path}/study.db"
    with connected(url) as database:
        optuna.create_study(storage=database, study_name="study", direction="maximize").ask()
    return url


@pytest.fixture
def pruned_run(compose_config, storage):
    """Train three epochs as trial 0, configured as by conf/sweep/optuna.yaml."""

    def run(*overrides, monitor="val/acc1", **pruner):
        config = compose_config(*THREE_EPOCHS, *overrides)
        config["callbacks"]["pruning"] = {
            "_target_": "fvit.search.pruning.Pruning",
            "monitor": monitor,
            "storage": storage,
            "study_name": "study",
            "trial": 0,
            "pruner": THRESHOLD | pruner,
        }
        return train(config)

    return run


@pytest.fixture
def record(tmp_path):
    return lambda: json.loads((tmp_path / "run" / "metrics.json").read_text())


@pytest.fixture
def reported(storage):
    def read():
        with connected(storage) as database:
            return optuna.load_study(storage=database, study_name="study").trials[0].intermediate_values

    return read


def test_a_hopeless_run_ends_after_its_first_validation(pruned_run, record, reported, capsys):
    metrics = pruned_run(lower=2.0)
    assert record()["status"] == "pruned"
    assert record()["error"] is None
    assert record()["metrics"] == metrics
    assert reported() == {1: metrics["val/acc1"]}
    assert "pruned at validation 1, with val/acc1" in capsys.readouterr().out


@pytest.mark.slow
def test_a_promising_run_finishes(pruned_run, record, reported):
    metrics = pruned_run(lower=-1.0)
    assert record()["status"] == "finished"
    assert list(reported()) == [1, 2, 3]
    assert reported()[3] == metrics["val/acc1"]


@pytest.mark.parametrize(
    "end",
    [
        "trainer.max_epochs=1",
        *(
            pytest.param(end, marks=pytest.mark.slow)
            for end in ("+trainer.max_steps=4", "+trainer.val_check_interval=4")
        ),
    ],
    ids=str,
)
def test_the_last_validation_prunes_nothing(pruned_run, record, reported, end):
    pruned_run(end, "trainer.max_epochs=1", lower=2.0)
    assert record()["status"] == "finished"
    assert list(reported()) == [1]


def test_a_run_is_pruned_within_an_epoch(pruned_run, record, reported):
    pruned_run("+trainer.val_check_interval=2", "trainer.max_epochs=1", lower=2.0)
    assert record()["status"] == "pruned"
    assert list(reported()) == [1]


@pytest.mark.slow
def test_a_resumed_run_reports_each_validation_once(pruned_run, record, reported, tmp_path):
    pruned_run("trainer.max_epochs=2", lower=-1.0)
    first = reported()
    assert list(first) == [1, 2]
    pruned_run("trainer.max_epochs=3", f"ckpt_path={tmp_path / 'run'}", lower=-1.0)
    assert list(reported()) == [1, 2, 3]
    # The same epochs again: the reports stay.
    pruned_run("trainer.max_epochs=3", lower=-1.0)
    assert list(reported()) == [1, 2, 3]


def test_a_missing_metric_is_named(pruned_run, record):
    with pytest.raises(RunError, match=r"monitor=val/acc is not a metric; known: .*val/acc1"):
        pruned_run(monitor="val/acc", lower=0.5)
    assert record()["status"] == "failed"


def test_with_several_objectives_nothing_is_reported(pruned_run, record, storage, reported):
    with connected(storage) as database:
        optuna.delete_study(storage=database, study_name="study")
        optuna.create_study(storage=database, study_name="study", directions=["maximize", "minimize"]).ask()
    pruned_run("trainer.max_epochs=1", lower=2.0)
    assert record()["status"] == "finished"
    assert reported() == {}
