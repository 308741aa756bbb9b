import json
import os
from types import SimpleNamespace

import pytest

from fvit.loggers import wandb_artifacts
from fvit.loggers.wandb import RunLogger
from tests.loggers.wandb_runs import runs


def test_copies_are_staged_beside_the_runs_unless_somebody_said_where(tmp_path, monkeypatch):
    monkeypatch.delenv("WANDB_DATA_DIR", raising=False)
    with wandb_artifacts.staged(tmp_path):
        assert os.environ["WANDB_DATA_DIR"] == str(tmp_path / "staged")
    assert "WANDB_DATA_DIR" not in os.environ
    monkeypatch.setenv("WANDB_DATA_DIR", "elsewhere")
    with wandb_artifacts.staged(tmp_path):
        assert os.environ["WANDB_DATA_DIR"] == "elsewhere"
    assert os.environ["WANDB_DATA_DIR"] == "elsewhere"


def test_a_set_of_images_is_used_and_not_uploaded(tmp_path):
    """Other facts are another version, another place is none."""
    for index, (images, root) in enumerate([(7, "here"), (7, "s3://there"), (8, "here")]):
        logger = RunLogger(tmp_path / "logs", "fvit", "test", tmp_path / str(index))
        logger.log_dataset("folder", {"train_images": images}, root)
        logger.close(SimpleNamespace(checkpoint_callbacks=[]), {}, 0)
    found = runs(tmp_path / "logs" / "wandb")
    used = [run.artifacts[0] for run in found]
    assert {(one["type"], one["name"], one["use_after_commit"]) for one in used} == {("dataset", "data-folder", True)}
    assert used[0]["digest"] == used[1]["digest"] != used[2]["digest"]
    assert json.loads(used[1]["metadata"]) == {"train_images": 7, "root": "s3://there"}
    assert [[file["path"] for file in one["manifest"]["contents"]] for one in used] == [["dataset.json"]] * 3
    assert found[2].summed["config"]["dataset"] == {"train_images": 8}


@pytest.mark.parametrize(
    ("artifacts", "expected"), [("off", []), ("best", ["best"]), ("all", ["best", "last"])], ids=["off", "best", "all"]
)
def test_checkpoints_are_versions_with_an_alias(tmp_path, monkeypatch, artifacts, expected):
    monkeypatch.delenv("WANDB_DATA_DIR", raising=False)
    checkpoints = []
    for name, monitor in (("best", "val/acc1"), ("last", None), ("missing", None)):
        path = tmp_path / f"{name}.ckpt"
        if name != "missing":
            path.write_bytes(name.encode())
        checkpoints.append(SimpleNamespace(monitor=monitor, best_model_path=str(path)))
    checkpoints.append(SimpleNamespace(monitor="val/loss", best_model_path=""))
    logger = RunLogger(tmp_path / "logs", "fvit", "test", tmp_path / "run", artifacts=artifacts)
    logger.log_metrics({"a": 1.0}, 0)
    logger.close(SimpleNamespace(checkpoint_callbacks=checkpoints), {}, 0)
    [run] = runs(tmp_path / "logs" / "wandb")
    assert [sorted(one["aliases"]) for one in run.artifacts] == [[alias, "latest"] for alias in expected]
    assert {one["name"] for one in run.artifacts} <= {f"model-{run.run['run_id']}"}
    for one, alias in zip(run.artifacts, expected, strict=True):
        [file] = one["manifest"]["contents"]
        assert file["path"] == f"{alias}.ckpt"
        assert str(tmp_path / "logs" / "wandb" / "staged") in file["local_path"]
        with open(file["local_path"], "rb") as staged:
            assert staged.read() == alias.encode()
