import json
import os

import pytest

from fvit.reports.runs.collect import as_text, collect_runs, find_benchmarks
from tests.reports.runs.folders import write_benchmark, write_run


def test_runs_and_sweeps_are_found_once_in_natural_order(tmp_path):
    for job in (2, 10, 9):
        write_run(tmp_path / "train" / "multiruns" / "grid" / str(job), seed=job)
    write_run(tmp_path / "train" / "runs" / "one")
    (tmp_path / "train" / "wandb" / "x").mkdir(parents=True)
    (tmp_path / "train" / "wandb" / "x" / "metrics.json").write_text("{}")
    names = [run.name for run in collect_runs([tmp_path / "train"])]
    assert names == [*(f"multiruns/grid/{job}" for job in (2, 9, 10)), "runs/one"]
    assert len(collect_runs([tmp_path / "train", tmp_path / "train" / "runs"])) == 4
    assert [run.name for run in collect_runs([tmp_path / "train" / "runs" / "one"])] == ["one"]


def test_a_finished_run(tmp_path):
    folder = write_run(tmp_path / "a", "softmax", seed=3, accuracy=0.75, overrides=["optimizer.lr=1e-3"])
    (folder / "train.log").write_text("a line")
    [run] = collect_runs([tmp_path])
    assert (run.status, run.finished, run.seed, run.seconds, run.error) == ("finished", True, 3, 61.0, None)
    assert run.metrics["val/acc1"] == 0.75
    assert run.overrides == ("attention=softmax", "seed=3", "optimizer.lr=1e-3")
    assert run.choices["attention"] == "softmax"
    assert run.config["data"]["name"] == "digits"
    assert run.environment["packages"] == {"torch": "2.9.0"}
    assert run.log == ()


@pytest.mark.parametrize("status", ["running", "failed", "interrupted", "pruned", "crashed"])
def test_an_unfinished_run_has_the_last_lines_of_its_logs(tmp_path, status):
    folder = write_run(tmp_path / "a", status=status, error="why")
    (folder / "train.log").write_text("".join(f"line {i}\n" for i in range(100)))
    (folder / "rank-1.log").write_bytes(b"broken \xff byte\n")
    [run] = collect_runs([tmp_path])
    assert (run.status, run.error, run.finished) == (status, "why", False)
    assert run.log[:3] == ("rank-1.log:", "broken \ufffd byte", "train.log:")
    assert run.log[-1] == "line 99"
    assert len(run.log) == 18


def test_a_run_that_did_not_start(tmp_path):
    (tmp_path / "a" / ".hydra").mkdir(parents=True)
    [run] = collect_runs([tmp_path])
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
def test_a_run_with_a_damaged_status_is_unreadable(tmp_path, content):
    write_run(tmp_path / "good")
    (write_run(tmp_path / "bad") / "metrics.json").write_text(content)
    bad, good = collect_runs([tmp_path])
    assert (bad.status, good.status) == ("unreadable", "finished")
    assert bad.error.startswith("metrics.json is damaged")
    assert bad.config["seed"] == 0, "the rest of it is read"


def test_damaged_files_count_as_missing(tmp_path):
    folder = write_run(tmp_path / "a")
    (folder / "config.yaml").write_text("a: [1, ")
    (folder / "environment.json").write_text("{")
    [run] = collect_runs([tmp_path])
    assert (run.status, run.config, run.environment) == ("finished", {}, {})


@pytest.mark.parametrize("hydra", ["hydra: [1]", "hydra: {overrides: x, runtime: y}"])
def test_files_of_other_tools_under_the_same_names_are_ignored(tmp_path, hydra):
    folder = write_run(tmp_path / "a")
    (folder / "config.yaml").write_text("{model: mine, data: digits, trainer: 3, seed: 0}")
    (folder / ".hydra" / "hydra.yaml").write_text(hydra)
    [run] = collect_runs([tmp_path])
    assert (run.status, run.config, run.overrides, run.choices) == ("finished", {"seed": 0}, (), {})


def test_metrics_that_are_not_finite_are_left_out(tmp_path):
    write_run(tmp_path / "a", metrics={"val/acc1": 0.5, "val/loss": float("nan")})
    assert collect_runs([tmp_path])[0].metrics == {"val/acc1": 0.5}


def test_a_run_was_last_written_when_its_newest_file_was(tmp_path):
    folder = write_run(tmp_path / "a", curve=[0.1])
    for name, moment in (("metrics.json", 1000), ("csv/metrics.csv", 2000), (".", 500)):
        os.utime(folder / name, (moment, moment))
    assert collect_runs([tmp_path])[0].last_written == 2000


def test_the_flat_config_names_the_runs_own_directory_as_such(tmp_path):
    folder = write_run(tmp_path / "a", data__augment={}, data__files=[f"{tmp_path}/a/x", None])
    flat = collect_runs([tmp_path])[0].flat_config
    assert flat["output_dir"] == str(folder)
    assert flat["callbacks.best.dirpath"] == "${output_dir}/checkpoints"
    assert (flat["data.augment"], json.loads(flat["data.files"])) == ("{}", ["${output_dir}/x", None])


@pytest.mark.parametrize(
    ("value", "text"), [(1e-3, "0.001"), (0.1234567891, "0.1234567891"), (None, "null"), (True, "true"), ("a", "a")]
)
def test_values_are_written_as_on_the_command_line(value, text):
    assert as_text(value) == text


def test_benchmarks_are_found_newest_first(tmp_path):
    for name in ("2026-01-01", "2026-02-01"):
        write_benchmark(tmp_path / "bench" / name)
    found = find_benchmarks([tmp_path, tmp_path / "bench", tmp_path / "none"])
    assert [path.parent.name for path in found] == ["2026-02-01", "2026-01-01"]
