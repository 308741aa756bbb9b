"""The command line of fvit-bench."""

import csv
import json
import os
import re
import subprocess
import sys
from types import SimpleNamespace

import pytest
import torch

from fvit.bench import warn_if_busy
from fvit.cost import measure as measuring
from fvit.cost import workload
from fvit.cost.workload import Workload

QUICK = ["model.depth=1", "model.embed_dim=24", "runs=3", "seconds=0.01", "batch=2"]


@pytest.fixture(autouse=True)
def idle(monkeypatch):
    """Whatever else runs during the tests."""
    monkeypatch.setattr(workload, "busy_cpus", lambda: 0.0)


@pytest.fixture(autouse=True)
def threads():
    before = torch.get_num_threads()
    yield
    torch.set_num_threads(before)


@pytest.fixture
def run(main, tmp_path):
    """Runs the command in this process, in an empty folder; `lines` are those of its bench.csv."""

    def call(*arguments):
        done = main("bench", *arguments)
        folder = next((tmp_path / "logs" / "bench").glob("*"), None)
        lines = []
        if folder:
            with (folder / "bench.csv").open(encoding="utf-8") as file:
                lines = list(csv.DictReader(file))
        return SimpleNamespace(code=done.returncode, out=done.stdout, err=done.stderr, folder=folder, lines=lines)

    return call


def test_other_work_at_the_start_and_runs_are_recorded(run, monkeypatch):
    monkeypatch.setattr(workload, "busy_cpus", lambda: 0.26)
    done = run("attention=softmax", "res=32", "what=latency", *QUICK)
    assert (done.code, done.err) == (0, "")
    assert re.search(r"0\.3 of \d+ CPUs busy with other work at the start", done.out)
    assert json.loads((done.folder / "bench.json").read_text())["machine"]["busy_cpus"] == 0.26
    assert [line["latency_ms_runs"] for line in done.lines] == ["3"]


@pytest.mark.parametrize(("busy", "warns"), [(None, False), (0.4, False), (0.5, True), (1.26, True)])
def test_other_work_is_warned_of(busy, warns, caplog):
    warn_if_busy({"busy_cpus": busy, "cpus": 2})
    assert [record.levelname for record in caplog.records] == ["WARNING"] * warns
    assert not warns or f"{busy:.1f} of 2 CPUs are busy with other work" in caplog.text


def test_a_grid_is_measured_and_reported(run):
    done = run("attention=additive,softmax", "res=32,64", *QUICK)
    assert (done.code, done.err) == (0, "")
    assert re.fullmatch(r"\d{4}-\d\d-\d\d_\d\d-\d\d-\d\d-[0-9a-f]{4}", done.folder.name)
    assert {path.name for path in done.folder.iterdir()} == {"bench.csv", "bench.json", "bench.md", "bench.html"}
    assert [(line["attention"], line["res"], line["tokens"]) for line in done.lines] == [
        ("additive", "32", "16"),
        ("softmax", "32", "16"),
        ("additive", "64", "64"),
        ("softmax", "64", "64"),
    ]
    assert {line["status"] for line in done.lines} == {"ok"}
    for title in ("Size and memory", "Time", "Scaling with the number of tokens N, compared with softmax"):
        assert title in done.out
    assert "24 of 24 figures" in done.out
    content = json.loads((done.folder / "bench.json").read_text())
    assert content["config"]["candidates"][0] == "attention=additive,softmax"
    assert content["environment"]["command"][0] == "fvit-bench"
    assert len(content["growth"]) == 2


def test_ctrl_c_keeps_what_was_measured_before(run, monkeypatch):
    together = measuring._measure_together

    def interrupted(group, *further):
        if group[0].candidate.conditions.res == 64:
            raise KeyboardInterrupt
        together(group, *further)

    monkeypatch.setattr(measuring, "_measure_together", interrupted)
    done = run("attention=additive", "res=32,64", *QUICK)
    assert (done.code, done.err.strip()) == (130, "interrupted")
    assert "interrupted" in done.out
    assert [(line["res"], line["status"], bool(line["latency_ms"])) for line in done.lines] == [
        ("32", "ok", True),
        ("64", "interrupted", False),
    ]


@pytest.mark.slow
def test_timms_models_are_measured(run):
    done = run("model=timm", "model.name=[test_vit,test_convnext]", "what=[params,macs,latency]", "res=160", "runs=3")
    assert (done.code, done.err) == (0, "")
    assert [(line["model"], line["attention"], line["status"]) for line in done.lines] == [
        ("test_vit", "native", "ok"),
        ("test_convnext", "native", "ok"),
    ]


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ([], "say what to measure: attention=additive,softmax model=vit_tiny"),
        (["attention=additiv,softmax"], "did you mean additive"),
        (["attention=additive", "model.embed_dim=100"], "not divisible by model.num_heads=3; use embed_dim=99"),
        (["attention=linear,additive", "baseline=linaer"], "baseline=linaer was not measured, did you mean linear"),
        (["attention=additive", "match=macs", "to=vit_smal"], "did you mean vit_small"),
        (["attention=additive", "device=cuda"], "device=cuda: torch finds none here; use device=cpu"),
    ],
)
def test_a_mistake_ends_in_one_message_and_leaves_no_folder(run, arguments, message, monkeypatch):
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    done = run(*arguments)
    assert done.code == 1
    assert message in done.err
    assert done.err.count("error: ") == 1
    assert "Traceback" not in done.out + done.err
    assert done.folder is None


def test_an_unusable_folder_is_an_error_before_measuring(run, tmp_path, monkeypatch):
    monkeypatch.setattr(measuring, "measure", lambda *_: pytest.fail("measured for nothing"))
    (tmp_path / "file").touch()
    done = run("attention=softmax", "output_dir=file/x", "what=params", *QUICK)
    assert done.code == 1
    assert "error: cannot use file/x: Not a directory" in done.err


def test_an_image_size_that_does_not_divide_is_a_status(run):
    done = run("attention=softmax", "res=30,32", "what=params", *QUICK)
    assert done.code == 0
    statuses = [line["status"] for line in done.lines]
    assert statuses == ["images of 30 px do not divide into patches of 8 px; use res=32", "ok"]
    assert "use res=32" in done.out


def test_invalid_options_are_a_status(run):
    done = run("model=vit_tiny", "model.embed_dim=96,100", "model.depth=1", "res=32", "what=params")
    assert done.code == 0
    valid, invalid = done.lines
    assert (valid["model"], valid["status"], float(valid["params"]) > 0) == ("vit_tiny embed_dim=96", "ok", True)
    assert (invalid["model"], invalid["params"]) == ("vit_tiny embed_dim=100", "")
    assert "not divisible by model.num_heads=3; use embed_dim=99" in invalid["status"]


@pytest.mark.slow
def test_an_option_of_another_mechanism_is_a_status(run):
    done = run("attention=additive,softmax", "++model.attention.logits=full", "res=32", "what=params")
    assert done.code == 0
    additive, softmax = done.lines
    assert (additive["attention"], additive["status"]) == ("additive", "ok")
    assert softmax["attention"] == "softmax"
    assert "has no option 'logits'" in softmax["status"]


@pytest.mark.slow
def test_running_out_of_memory_is_a_status(run, monkeypatch):
    def forward(subject, batch):
        if "sigmoid" in type(subject.model.blocks[0].attn).__name__.lower():
            raise RuntimeError("[enforce fail at alloc_cpu.cpp] DefaultCPUAllocator: can't allocate memory")
        return real(subject, batch)

    real = Workload.forward
    monkeypatch.setattr(Workload, "forward", forward)
    done = run("attention=softmax,sigmoid", "res=32", "what=params,latency,train", *QUICK)
    assert done.code == 0
    softmax, sigmoid = done.lines
    assert (softmax["status"], sigmoid["status"]) == ("ok", "out of memory")
    assert float(softmax["train_ms"]) > 0
    assert (float(sigmoid["params"]) > 0, sigmoid["latency_ms"], sigmoid["train_ms"]) == (True, "", "")
    assert "out of memory" in done.out


@pytest.mark.slow
def test_if_nothing_could_be_measured_the_command_fails(run):
    done = run("attention=softmax", "res=30", "what=params", *QUICK)
    assert done.code == 1
    assert "error: no candidate could be measured; the table gives the reasons" in done.err
    assert len(done.lines) == 1


@pytest.mark.slow
def test_the_number_of_threads_is_set_and_recorded(run):
    number = torch.get_num_threads() + 1
    done = run("attention=softmax", "res=32", "what=latency", f"threads={number}", *QUICK)
    assert torch.get_num_threads() == number
    assert json.loads((done.folder / "bench.json").read_text())["machine"]["threads"] == number
    assert f"{number} threads of" in done.out


@pytest.mark.slow
def test_precisions_are_measured_side_by_side(run, monkeypatch):
    seen = []
    monkeypatch.setattr(
        measuring, "Workload", lambda model, conditions: seen.append(conditions) or Workload(model, conditions)
    )
    done = run("attention=softmax", "res=32", "precision=float32,bf16", "what=latency,train", *QUICK)
    assert (done.code, done.err) == (0, "")
    assert [conditions.precision for conditions in seen] == ["float32", "bf16"]
    assert [line["precision"] for line in done.lines] == ["float32", "bf16"]
    assert "precision" in done.out


@pytest.mark.slow
@pytest.mark.exhaustive
def test_eager_and_compiled_are_measured_side_by_side(run):
    done = run("attention=additive,softmax", "res=32", "compile=false,true", "what=macs,latency,train", *QUICK)
    assert done.code == 0
    assert [(line["compiled"], line["status"]) for line in done.lines] == [("False", "ok")] * 2 + [("True", "ok")] * 2
    assert done.lines[0]["macs"] == done.lines[2]["macs"]


@pytest.mark.slow
@pytest.mark.parametrize("metric", ["params", "macs", "latency"])
def test_width_is_matched_to_a_budget(run, metric):
    done = run(
        "attention=additive,softmax", "model=vit_atto", f"match={metric}", "to=vit_atto", "match_by=width", "res=32",
        "what=params,macs", "runs=21", "seconds=1", "threads=1",
    )  # fmt: skip
    assert (done.code, done.err) == (0, "")
    additive, softmax = done.lines
    assert additive["status"] == softmax["status"] == "ok"
    assert int(additive["embed_dim"]) % 24 == 0
    assert additive["depth"] == "4"
    if metric != "latency":
        assert (softmax["embed_dim"], float(softmax["match_error"])) == ("96", 0)
        error = float(additive[metric]) / float(softmax[metric]) - 1
        assert float(additive["match_error"]) == pytest.approx(error)
        assert abs(error) < 0.2
    assert f"Budget error: {metric} relative to vit_atto with softmax" in done.out


@pytest.mark.slow
def test_depth_is_matched_to_a_budget(run):
    budget = ["match=macs", "to=vit_atto", "match_by=depth"]
    [identity] = run("attention=identity", "model.global_pool=avg", *budget, "res=32", "what=macs").lines
    assert int(identity["depth"]) > 4
    assert identity["embed_dim"] == "96"


def test_a_model_that_cannot_be_resized_cannot_meet_a_budget(run):
    done = run("model=timm", "model.name=test_convnext", "match=params", "to=vit_atto", "res=32", "what=params")
    assert done.code == 1
    assert "test_convnext" in done.lines[0]["status"]


def test_the_config_is_composed_without_torch(tmp_path):
    done = subprocess.run(
        [sys.executable, "-X", "importtime", "-m", "fvit.bench", "attention=additive", "--cfg", "job", "--resolve"],
        cwd=tmp_path,
        env={**os.environ, "OMP_NUM_THREADS": "1"},
        capture_output=True,
        text=True,
        timeout=60,
    )
    assert done.returncode == 0, done.stderr
    imported = set(re.findall(r"\| +(\w+)$", done.stderr, flags=re.MULTILINE))
    assert "hydra" in imported
    assert not imported & {"torch", "timm", "lightning", "plotly"}
    assert list(tmp_path.iterdir()) == []


def test_help_lists_the_keys_and_fits_a_screen(run):
    text = run("--help").out
    assert len(text.splitlines()) <= 40
    for key in [
        "attention",
        "res",
        "what",
        "precision",
        "compile",
        "match",
        "to",
        "device",
        "runs",
        "threads",
        "baseline",
    ]:
        assert re.search(rf"^ .*\b{key}\b", text, flags=re.MULTILINE), key
