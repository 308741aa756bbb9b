"""A run directory and configurations of version 0.1: the quickstart with 8 channels and an average of the weights."""

import csv
import shutil
from pathlib import Path

import pytest
import torch
from hydra.utils import get_class

from fvit.config import legacy
from fvit.config.schemas.eval import Eval
from fvit.eval import evaluate
from fvit.training import Classifier, checkpoint
from fvit.training.trainer import build_trainer
from tests.tasks import checked

OLD = Path(__file__).parents[1] / "fixtures" / "v0_1"


@pytest.fixture
def old(tmp_path):
    """A copy of the run directory, as if the run had set an option that was removed."""
    folder = Path(shutil.copytree(OLD, tmp_path / "v0_1"))
    with (folder / "overrides.yaml").open("a") as file:
        file.write("- model.trim_last=false\n")
    return folder


@pytest.fixture(scope="module")
def content():
    return torch.load(OLD / "checkpoints" / "last.ckpt", weights_only=True)


def test_module_loads(content):
    assert "trim_last" in content["hyper_parameters"]["model"]
    module = Classifier.load_from_checkpoint(OLD / "checkpoints" / "last.ckpt")
    assert module.state_dict().keys() == content["state_dict"].keys()
    assert all(torch.equal(weight, content["state_dict"][name]) for name, weight in module.state_dict().items())


def test_evaluation_gives_the_recorded_metrics(tmp_path, content):
    metrics = evaluate(checked("eval", Eval, f"ckpt_path={OLD}", f"output_dir={tmp_path}"))
    recorded = {name: content["metrics"][name] for name in ("val/acc1", "val/acc5", "val/loss")}
    assert {name: metrics[name] for name in recorded} == pytest.approx(
        recorded, rel=1e-6
    )  # another processor rounds otherwise


def test_run_resumes_with_all_states_and_without_a_warning(old, content, main, monkeypatch):
    load, states = torch.optim.AdamW.load_state_dict, []
    monkeypatch.setattr(
        torch.optim.AdamW, "load_state_dict", lambda self, state: states.append(state) or load(self, state)
    )
    done = main("train", f"ckpt_path={old}", "trainer.max_epochs=3")  # warnings are errors in tests
    assert done.returncode == 0, done.stderr
    assert "settings that changed: trainer.max_epochs=3 (was 2)\n" in done.stdout
    resumed = checkpoint.read(old / "checkpoints" / "last.ckpt")
    assert (content["epoch"], content["global_step"]) == (1, 22)
    assert (resumed["epoch"], resumed["global_step"]) == (2, 33)
    assert len(states) == 1
    best = next(state for name, state in resumed["callbacks"].items() if name.startswith("ModelCheckpoint"))
    before = next(state for name, state in content["callbacks"].items() if name.startswith("ModelCheckpoint"))
    assert best["best_model_score"] >= before["best_model_score"]
    assert best["dirpath"] == str(old / "checkpoints")
    hours = (
        one["callbacks"][name]["progress/device_hours"]
        for one, name in ((content, "DeviceHours"), (resumed, "Metrics"))
    )
    assert 0 < next(hours) < next(hours)
    assert resumed["callbacks"]["EMA"]["latest_update_step"] == 33
    assert resumed["averaging_state"]["n_averaged"] == content["averaging_state"]["n_averaged"] + 11
    with (old / "csv" / "metrics.csv").open(newline="") as file:
        steps = [int(row["step"]) for row in csv.DictReader(file)]
    assert steps == [9, 10, 10, 19, 21, 21, 29, 32, 32]


@pytest.mark.parametrize("target", legacy.CLASSES)
def test_moved_class_is_found(target):
    assert target.startswith("fvit.run.")
    assert get_class(legacy.moved({"_target_": target, "key": 1})["_target_"])


def test_class_that_hydra_imports_itself_is_found(main, tmp_path):
    """In Hydra's own section of a configuration, which `moved` never sees."""
    old = "hydra.callbacks.sweep._target_=fvit.run.sweep.SweepFolder"
    done = main("train", "-m", "seed=0", "optimizer.lr=-1", old, "hydra.sweep.dir=swept")
    assert "Sweep swept" in done.stdout
    assert "fvit.run" not in done.stderr


def test_typed_target_of_a_moved_class_instantiates(compose_config):
    trace = ("+callbacks.trace._target_=fvit.run.profiling.Trace", "+callbacks.trace.folder=here")
    config = compose_config("callbacks=none", "logger=none", *trace)
    [callback] = build_trainer(config).callbacks
    assert type(callback).__module__ == "fvit.callbacks.profiler"
