import json
import os

import pytest

from fvit.reports.runs.gather import find_benchmarks, gather
from tests.reports.runs.folders import write_benchmark, write_run, write_sweep


def test_runs_and_multiruns_are_found_once_in_their_order(tmp_path):
    write_sweep(tmp_path / "train" / "multiruns" / "grid", seeds=range(1), attentions=["additive"])
    for job in (2, 10, 9):
        write_run(tmp_path / "train" / "multiruns" / "grid" / str(job), seed=job)
    write_run(tmp_path / "train" / "runs" / "one")
    (tmp_path / "train" / "wandb" / "x").mkdir(parents=True)
    (tmp_path / "train" / "wandb" / "x" / "metrics.json").write_text("{}")
    names = [run.name for run in gather([tmp_path / "train"])]
    assert names == [*(f"multiruns/grid/{job}" for job in (0, 2, 9, 10)), "runs/one"]
    assert len(gather([tmp_path / "train", tmp_path / "train" / "runs"])) == 5
    assert [run.name for run in gather([tmp_path / "train" / "runs" / "one"])] == ["one"]


def test_a_finished_run_is_read_whole(tmp_path):
    write_run(tmp_path / "a", "softmax", seed=3, accuracy=0.75, overrides=["optimizer.lr=1e-3"])
    [run] = gather([tmp_path])
    assert (run.status, run.finished, run.seed, run.seconds, run.error) == ("finished", True, 3, 61.0, None)
    assert run.metrics["val/acc1"] == 0.75
    assert run.overrides == ("attention=softmax", "seed=3", "optimizer.lr=1e-3")
    assert run.choices["attention"] == "softmax"
    assert run.config["data"]["name"] == "digits"
    assert run.environment["packages"] == {"torch": "2.9.0"}


@pytest.mark.parametrize("status", ["running", "failed", "interrupted", "pruned", "crashed"])
def test_a_run_that_did_not_finish_brings_the_last_lines_of_its_logs(tmp_path, status):
    folder = write_run(tmp_path / "a", status=status, error="why")
    (folder / "train.log").write_text("".join(f"line {i}\n" for i in range(100)))
    (folder / "rank-1.log").write_bytes(b"broken \xff byte\n")
    [run] = gather([tmp_path])
    assert (run.status, run.error, run.finished) == (status, "why", False)
    assert run.log[:3] == ("rank-1.log:", "broken \ufffd byte", "train.log:")
    assert run.log[-1] == "line 99"
    assert len(run.log) == 18


def test_a_finished_run_brings_no_log(tmp_path):
    (write_run(tmp_path / "a") / "train.log").write_text("a line")
    assert gather([tmp_path])[0].log == ()


def test_a_run_that_never_began(tmp_path):
    (tmp_path / "a" / ".hydra").mkdir(parents=True)
    [run] = gather([tmp_path])
    assert (run.status, run.config, run.metrics, run.seed) == ("not started", {}, {}, None)


@pytest.mark.parametrize(
    "content",
    [
        "",
        "{",
        "[]",
        '{"metrics": {}}',
        '{"status": "finished", "metrics": {"a": "b"}}',
        '{"status": "finished", "metrics": {"a": 1%s}}' % ("0" * 400),
        '{"status": null, "metrics": {}}',
        '{"status": "failed", "error": 5, "metrics": {}}',
    ],
)
def test_a_damaged_record_is_told_and_stops_nothing(tmp_path, content):
    write_run(tmp_path / "good")
    (write_run(tmp_path / "bad") / "metrics.json").write_text(content)
    bad, good = gather([tmp_path])
    assert (bad.status, good.status) == ("unreadable", "finished")
    assert bad.error.startswith("metrics.json is damaged")
    assert bad.config["seed"] == 0, "the rest of it is there"


def test_a_damaged_configuration_is_none(tmp_path):
    folder = write_run(tmp_path / "a")
    (folder / "config.yaml").write_text("a: [1, ")
    (folder / "environment.json").write_text("{")
    [run] = gather([tmp_path])
    assert (run.status, run.config, run.environment) == ("finished", {}, {})


def test_what_somebody_else_wrote_under_our_names_stops_nothing(tmp_path):
    folder = write_run(tmp_path / "a")
    (folder / "config.yaml").write_text("{model: mine, data: digits, trainer: 3, seed: 0}")
    for written in ("hydra: [1]", "hydra: {overrides: x, runtime: y}"):
        (folder / ".hydra" / "hydra.yaml").write_text(written)
        [run] = gather([tmp_path])
        assert (run.status, run.config, run.overrides, run.choices) == ("finished", {"seed": 0}, (), {})


def test_what_is_not_finite_is_no_metric(tmp_path):
    folder = write_run(tmp_path / "a", metrics={"val/acc1": 0.5})
    record = json.loads((folder / "metrics.json").read_text())
    record["metrics"]["val/loss"] = float("nan")
    (folder / "metrics.json").write_text(json.dumps(record))
    assert gather([tmp_path])[0].metrics == {"val/acc1": 0.5}


def test_the_last_sign_of_life_is_the_newest_file(tmp_path):
    folder = write_run(tmp_path / "a", curve=[0.1])
    for name, moment in (("metrics.json", 1000), ("csv/metrics.csv", 2000), (".", 500)):
        os.utime(folder / name, (moment, moment))
    assert gather([tmp_path])[0].touched == 2000


def test_benchmarks_are_found_the_newest_first(tmp_path):
    for name in ("2026-01-01", "2026-02-01"):
        write_benchmark(tmp_path / "bench" / name)
    found = find_benchmarks([tmp_path, tmp_path / "bench", tmp_path / "none"])
    assert [path.parent.name for path in found] == ["2026-02-01", "2026-01-01"]
