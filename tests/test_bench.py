"""fvit-bench as a person meets it."""

import csv
import json
import os
import re
import subprocess
import sys
from pathlib import Path
from types import SimpleNamespace

import pytest
import torch

from fvit.cost import measure as measuring
from fvit.cost.subject import Subject

QUICK = ["model.depth=1", "model.embed_dim=24", "runs=3", "seconds=0.01", "batch=2"]


@pytest.fixture(autouse=True)
def threads():
    before = torch.get_num_threads()
    yield
    torch.set_num_threads(before)


@pytest.fixture
def run(main, tmp_path):
    """The command line inside this process, in an empty folder."""

    def call(*arguments):
        done = main("bench", *arguments)
        folders = sorted((tmp_path / "logs" / "bench").glob("*"))
        return SimpleNamespace(
            code=done.returncode, out=done.stdout, err=done.stderr, folder=folders[-1] if folders else None
        )

    return call


def lines(folder: Path):
    with (folder / "bench.csv").open(encoding="utf-8") as file:
        return list(csv.DictReader(file))


def test_a_grid_is_measured_and_told(run):
    done = run("attention=additive,softmax", "res=32,64", *QUICK)
    assert (done.code, done.err) == (0, "")
    assert re.fullmatch(r"\d{4}-\d\d-\d\d_\d\d-\d\d-\d\d-[0-9a-f]{4}", done.folder.name)
    assert {path.name for path in done.folder.iterdir()} == {"bench.csv", "bench.json", "bench.html"}
    found = lines(done.folder)
    assert [(line["attention"], line["res"], line["tokens"]) for line in found] == [
        ("additive", "32", "16"),
        ("softmax", "32", "16"),
        ("additive", "64", "64"),
        ("softmax", "64", "64"),
    ]
    assert {line["status"] for line in found} == {"ok"}
    for title in ("Size and memory", "Time", "Growth with the tokens N, beside softmax"):
        assert title in done.out
    assert "24 of 24 figures" in done.out
    content = json.loads((done.folder / "bench.json").read_text())
    assert content["config"]["candidates"][0] == "attention=additive,softmax"
    assert content["environment"]["command"][0] == "fvit-bench"
    assert len(content["growth"]) == 2


def test_ctrl_c_leaves_what_was_measured_before(run, monkeypatch):
    together = measuring._measure_together

    def interrupted(group, *further):
        if group[0].candidate.conditions.res == 64:
            raise KeyboardInterrupt
        together(group, *further)

    monkeypatch.setattr(measuring, "_measure_together", interrupted)
    done = run("attention=additive", "res=32,64", *QUICK)
    assert (done.code, done.err.strip()) == (130, "interrupted")
    assert "interrupted" in done.out
    assert [(line["res"], line["status"], bool(line["latency_ms"])) for line in lines(done.folder)] == [
        ("32", "ok", True),
        ("64", "interrupted", False),
    ]


def test_models_of_timm_are_measured(run):
    done = run("model=timm", "model.name=[test_vit,test_convnext]", "what=[params,macs,latency]", "res=160", "runs=3")
    assert (done.code, done.err) == (0, "")
    assert [(line["model"], line["attention"], line["status"]) for line in lines(done.folder)] == [
        ("test_vit", "native", "ok"),
        ("test_convnext", "native", "ok"),
    ]


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ([], "say what to measure: attention=additive,softmax model=vit_tiny"),
        (["attention=additiv,softmax"], "attention=additiv is not an option, did you mean additive"),
        (["model=vit_tinny"], "did you mean vit_tiny"),
        (["attenton=additive"], "has no key attenton, did you mean attention"),
        (["attention=additive", "seed=1"], "fvit-bench has no key seed"),
        (["attention=additive", "model.embed_dm=1"], "unknown key model.embed_dm, did you mean embed_dim"),
        (["attention=additive", "model.embed_dim=100"], "not divisible by model.num_heads=3; use embed_dim=99"),
        (["model=timm"], "model.name must be given"),
        (["attention=additive", "what=latancy"], "what='latancy': input should be 'params', 'macs', 'latency'"),
        (["attention=additive", "res=big"], "res='big': input should be a valid integer"),
        (["attention=additive", "baseline=linaer"], "baseline=linaer is not measured; measured: additive"),
        (["attention=linear,additive", "baseline=linaer"], "baseline=linaer is not measured, did you mean linear"),
        (["attention=additive", "match=macs"], "to=vit_small, for example"),
        (["attention=additive", "match=macs", "to=vit_smal"], "did you mean vit_small"),
        (["-m", "attention=additive"], "-m would measure apart what is to be compared; leave it out"),
        (["attention=additive", "device=cuda"], "device=cuda: torch finds none here; use device=cpu"),
    ],
)
def test_a_mistake_ends_in_one_message_and_leaves_nothing(run, arguments, message, monkeypatch):
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    done = run(*arguments)
    assert done.code == 1
    assert message in done.err
    assert done.err.count("error: ") == 1
    assert "Traceback" not in done.out + done.err
    assert done.folder is None


def test_a_folder_that_cannot_be_is_told_before_anything_is_measured(run, tmp_path, monkeypatch):
    monkeypatch.setattr(measuring, "measure", lambda *_: pytest.fail("measured for nothing"))
    (tmp_path / "file").touch()
    done = run("attention=softmax", "output_dir=file/x", "what=params", *QUICK)
    assert done.code == 1
    assert "error: cannot use file/x: Not a directory" in done.err


def test_a_size_that_does_not_divide_is_a_row(run):
    done = run("attention=softmax", "res=30,32", "what=params", *QUICK)
    assert done.code == 0
    statuses = [line["status"] for line in lines(done.folder)]
    assert statuses == ["images of 30 px do not divide into patches of 8 px; take res=32", "ok"]
    assert "take res=32" in done.out


def test_options_that_do_not_fit_together_are_a_row(run):
    done = run("model=vit_tiny", "model.embed_dim=96,100", "model.depth=1", "res=32", "what=params")
    assert done.code == 0
    fits, does_not = lines(done.folder)
    assert (fits["model"], fits["status"], float(fits["params"]) > 0) == ("vit_tiny embed_dim=96", "ok", True)
    assert (does_not["model"], does_not["params"]) == ("vit_tiny embed_dim=100", "")
    assert "not divisible by model.num_heads=3; use embed_dim=99" in does_not["status"]


def test_an_option_of_another_mechanism_is_a_row(run):
    done = run("attention=additive,softmax", "++model.attention.logits=full", "res=32", "what=params")
    assert done.code == 0
    fits, does_not = lines(done.folder)
    assert (fits["attention"], fits["status"]) == ("additive", "ok")
    assert does_not["attention"] == "softmax"
    assert "has no option 'logits'" in does_not["status"]


def test_a_candidate_without_memory_is_a_row(run, monkeypatch):
    def forward(subject, batch):
        if type(subject.model.blocks[0].attn).__name__ == "SigmoidAttention":
            raise RuntimeError("[enforce fail at alloc_cpu.cpp] DefaultCPUAllocator: can't allocate memory")
        return real(subject, batch)

    real = Subject.forward
    monkeypatch.setattr(Subject, "forward", forward)
    done = run("attention=softmax,sigmoid", "res=32", "what=params,latency,train", *QUICK)
    assert done.code == 0
    softmax, sigmoid = lines(done.folder)
    assert (softmax["status"], sigmoid["status"]) == ("ok", "out of memory")
    assert float(softmax["train_ms"]) > 0
    assert (float(sigmoid["params"]) > 0, sigmoid["latency_ms"], sigmoid["train_ms"]) == (True, "", "")
    assert "out of memory" in done.out


def test_where_nothing_could_be_measured_the_command_fails(run):
    done = run("attention=softmax", "res=30", "what=params", *QUICK)
    assert done.code == 1
    assert "error: no candidate could be measured to the end; the table says why" in done.err
    assert len(lines(done.folder)) == 1


@pytest.mark.parametrize("number", [1, 2])
def test_threads_are_fixed_and_recorded(run, number):
    done = run("attention=softmax", "res=32", "what=latency", f"threads={number}", *QUICK)
    assert torch.get_num_threads() == number
    assert json.loads((done.folder / "bench.json").read_text())["machine"]["threads"] == number
    assert f"{number} threads of" in done.out


def test_half_precision_is_measured_beside_the_whole(run, monkeypatch):
    seen = []
    monkeypatch.setattr(
        measuring, "Subject", lambda model, conditions: seen.append(conditions) or Subject(model, conditions)
    )
    done = run("attention=softmax", "res=32", "precision=float32,bf16", "what=latency,train", *QUICK)
    assert (done.code, done.err) == (0, "")
    assert [conditions.precision for conditions in seen] == ["float32", "bf16"]
    assert [line["precision"] for line in lines(done.folder)] == ["float32", "bf16"]
    assert re.search(r"precision", done.out)


@pytest.mark.slow
@pytest.mark.exhaustive
def test_compiled_is_measured_beside_eager(run):
    done = run("attention=additive,softmax", "res=32", "compile=false,true", "what=macs,latency,train", *QUICK)
    assert done.code == 0
    found = lines(done.folder)
    assert [(line["compiled"], line["status"]) for line in found] == [("False", "ok")] * 2 + [("True", "ok")] * 2
    assert found[0]["macs"] == found[2]["macs"]


@pytest.mark.slow
@pytest.mark.parametrize("metric", ["params", "macs", "latency"])
def test_all_get_the_budget_of_one_model(run, metric):
    done = run(
        "attention=additive,softmax", "model=vit_atto", f"match={metric}", "to=vit_atto", "match_by=width", "res=32",
        "what=params,macs", "runs=3", "seconds=0.05", "threads=1",
    )  # fmt: skip
    assert (done.code, done.err) == (0, "")
    additive, softmax = lines(done.folder)
    assert int(additive["embed_dim"]) % 24 == 0
    assert additive["depth"] == "4"
    if metric != "latency":
        assert (softmax["embed_dim"], float(softmax["match_error"])) == ("96", 0)
        error = float(additive[metric]) / float(softmax[metric]) - 1
        assert float(additive["match_error"]) == pytest.approx(error)
        assert abs(error) < 0.2
    assert f"Off by: {metric}, beside those of vit_atto with softmax" in done.out


def test_depth_can_meet_a_budget(run):
    done = run(
        "attention=identity",
        "model.global_pool=avg",
        "match=macs",
        "to=vit_atto",
        "match_by=depth",
        "res=32",
        "what=macs",
    )
    [identity] = lines(done.folder)
    assert int(identity["depth"]) > 4
    assert identity["embed_dim"] == "96"


def test_a_model_without_width_cannot_meet_a_budget_and_says_so(run):
    done = run("model=timm", "model.name=test_convnext", "match=params", "to=vit_atto", "res=32", "what=params")
    assert done.code == 1
    assert lines(done.folder)[0]["status"].startswith(
        "a budget is met by width or depth, and test_convnext does not say"
    )


@pytest.mark.parametrize("arguments", [["--help"], ["attention=additive", "--cfg", "job", "--resolve"]])
def test_help_and_the_configuration_come_without_torch(tmp_path, arguments):
    done = subprocess.run(
        [sys.executable, "-X", "importtime", "-m", "fvit.bench", *arguments],
        cwd=tmp_path,
        env={**os.environ, "OMP_NUM_THREADS": "1"},
        capture_output=True,
        text=True,
        timeout=60,
    )
    assert done.returncode == 0, done.stderr
    imported = set(re.findall(r"\| +(\w+)$", done.stderr, flags=re.MULTILINE))
    assert "hydra" in imported
    assert not imported & {"torch", "timm", "lightning", "plotly", "matplotlib"}
    assert list(tmp_path.iterdir()) == []


def test_help_explains_itself_and_fits_a_screen(run):
    text = run("--help").out
    assert len(text.splitlines()) <= 40
    for word in (
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
    ):
        assert re.search(rf"^ .*\b{word}\b", text, flags=re.MULTILINE), word
