"""Whole command lines: their messages, their exit codes, and what they leave in the run directory."""

import csv
import importlib
import json
import logging
import os
import re
import signal
import subprocess
import sys
from pathlib import Path

import pytest
from omegaconf import OmegaConf

import fvit
from fvit.config.paths import conf_dir
from tests.tasks import call

TINY = ["data=fake", "data.num_images=64", "model.embed_dim=24", "model.depth=1", "global_batch_size=16"]
SHORT = [*TINY, "debug=limit"]


def runs(tmp_path: Path, task="train", kind="runs") -> list[Path]:
    folder = tmp_path / "logs" / task / kind
    # Not by name, which has a resolution of one second.
    return sorted(folder.iterdir(), key=lambda run: run.stat().st_mtime_ns) if folder.is_dir() else []


def record(run: Path):
    return json.loads((run / "metrics.json").read_text())


@pytest.fixture(scope="module")
def trained(tmp_path_factory):
    """A run directory, which tests do not change."""
    folder = tmp_path_factory.mktemp("trained")
    options = ["trainer.max_epochs=2", "scheduler.warmup_epochs=0", "logger=none", "quiet=true", "hydra.run.dir=run"]
    assert call(folder, "train", *TINY, *options) == 0
    return folder / "run"


MISTAKES = [
    (["attention=additiv"], "did you mean additive"),
    (["model=timm", "model.name=convnextv2_ato"], "did you mean convnextv2_atto"),
    (["trainer.max_epoch=1"], "did you mean trainer.max_epochs"),
    (["model.embed_dim=100"], "not divisible by model.num_heads=3; use embed_dim=99"),
    (["data=folder", "data.root=missing"], "data.root=missing is not a folder"),
    (["ckpt_path=missing.ckpt"], "missing.ckpt does not exist"),
    (["hardware=ddp_cpu", "trainer.num_nodes=2"], "num_nodes=2 needs torchrun with hardware=torchrun"),
    (["hydra.run.dir=a_file/run"], "a_file"),
]
MORE_MISTAKES = [
    (["model=timm"], "model.name must be given"),
    (["+experimnt=x"], "did you mean experiment"),
    (["data=folder"], "data=folder needs data.root"),
    (["model.num_classes=5"], "the dataset has 10 classes and the head 5 outputs"),
    (["distillation=deit_soft"], "distillation needs a teacher: distillation.teacher.path=…"),
    (["hardware=gpu"], "use hardware=cpu"),
    (["hardware=ddp_cpu", "global_batch_size=63"], "use global_batch_size=62 or 64"),
]
"""Whose messages tests of the validation and of what refuses them compare as well."""


@pytest.mark.parametrize(
    ("overrides", "message"), [*MISTAKES, *(pytest.param(*case, marks=pytest.mark.slow) for case in MORE_MISTAKES)]
)
def test_a_mistake_ends_in_one_message(main, tmp_path, overrides, message, monkeypatch):
    (tmp_path / "a_file").write_text("")
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "")
    done = main("train", *overrides)
    assert done.returncode == 1
    assert message in done.stderr
    assert done.stderr.count("error: ") == 1
    assert "Traceback" not in done.stdout + done.stderr
    assert all(record(run)["status"] == "failed" for run in runs(tmp_path))


@pytest.mark.slow
def test_the_traceback_is_one_variable_away(fvit):
    done = fvit("train", "optimizer.lr=-1", HYDRA_FULL_ERROR="1")
    assert done.returncode == 1
    assert "Traceback" in done.stderr
    assert "error: optimizer.lr=-1: input should be greater than 0" in done.stderr


def test_an_invalid_configuration_leaves_no_directory(main, tmp_path):
    assert main("train", "optimizer.lr=-1").returncode == 1
    assert runs(tmp_path) == []


def test_a_path_that_hydra_would_replace_is_refused(main, tmp_path, capfd):
    done = main("train", "hydra.run.dir='my \\${runs}'")
    assert "my \\${runs}': a run directory cannot have ${ in its path" in done.stderr
    assert list(tmp_path.iterdir()) == []
    (tmp_path / "${now:%Y}").mkdir()
    assert call(tmp_path / "${now:%Y}", "train") == 1
    assert "/${now:%Y}, because of the ${ in its path: rename it" in capfd.readouterr().err
    assert main("train", "hydra.run.dir='${now:%Y}'", "--cfg", "job").returncode == 0


@pytest.mark.parametrize("task", ["train", "eval", "report"])
def test_version_is_ours(main, task):
    assert main(task, "--version").stdout == f"fvit {fvit.__version__}\n"


def test_help_does_not_import_torch(fvit):
    done = fvit("train", "--help", PYTHONPROFILEIMPORTTIME="1")
    assert done.returncode == 0, done.stderr
    imported = set(re.findall(r"\| +(\w+)$", done.stderr, flags=re.MULTILINE))
    assert "hydra" in imported
    assert not imported & {"torch", "timm", "lightning", "wandb"}


@pytest.mark.slow
def test_a_wrong_configuration_is_found_before_torch_is_imported(fvit):
    done = fvit("train", "+experimnt=x", PYTHONPROFILEIMPORTTIME="1")
    assert done.returncode == 1
    assert "pydantic" in done.stderr
    assert not re.search(r"\| +torch$", done.stderr, flags=re.MULTILINE)


@pytest.mark.parametrize(
    "task",
    [
        pytest.param(path.stem, marks=[] if path.stem == "train" else pytest.mark.slow)
        for path in sorted(conf_dir().glob("*.yaml"))
    ],
)
def test_help_fits_a_screen(main, task):
    lines = main(task, "--help").stdout.splitlines()
    assert lines[0].startswith(f"fvit-{task} ")
    assert len(lines) <= 50
    assert max(map(len, lines)) <= 100
    assert sum(line.startswith(f"  fvit-{task}") for line in lines) >= 2
    assert "\nquiet: true\n" in main(task, "--cfg", "job", "quiet=true").stdout


def test_the_help_of_training_lists_all_groups_and_settings_that_exist(main, compose_config):
    text = main("train", "--help").stdout
    groups, rest = text.split("\nCommon settings\n")
    listed = dict(re.findall(r"^  (\w+) +((?:[\w, ]+,\n)*[\w, ]+)$", groups, flags=re.MULTILINE))
    assert {name: set(re.findall(r"\w+", options)) for name, options in listed.items()} == {
        group.name: {path.stem for path in group.glob("[!_]*.yaml")}
        for group in conf_dir().iterdir()
        if group.is_dir() and group.name != "hydra"
    }
    settings = rest.partition("\n\n")[0].split()
    assert {"trainer.max_epochs", "global_batch_size", "seed", "optimizer.lr", "data.root", "ckpt_path"} <= {
        override.partition("=")[0] for override in settings
    }
    assert compose_config("data=folder", *settings)


@pytest.mark.slow
def test_help_lists_the_groups_of_another_config_directory(main, tmp_path):
    (tmp_path / "mine" / "attention").mkdir(parents=True)
    (tmp_path / "mine" / "attention" / "ours.yaml").write_text("name: softmax")
    assert re.search(r"\bours\b", main("train", "--help", "--config-dir", "mine").stdout)


@pytest.mark.parametrize(
    ("task", "override", "message"),
    [
        ("eval", "ckpt_pat=x", "did you mean ckpt_path"),
        ("eval", "data.rot=x", "did you mean data.root"),
        ("predict", "image=x", "did you mean images"),
        ("export", "forma=x", "did you mean format"),
        ("prepare", "shard_siz=1", "did you mean shard_size"),
        ("bench", "devic=cpu", "did you mean device"),
        ("report", "basline=x", "did you mean baseline"),
        ("report", "zzz=x", "unknown key zzz; `"),
    ],
)
def test_advice_names_the_command_and_one_of_its_keys(main, task, override, message):
    done = main(task, override)
    assert done.returncode == 1
    assert message in done.stderr
    assert "fvit-train" not in done.stderr
    assert f"`fvit-{task} --cfg job` shows all keys" in done.stderr or task == "bench"


def test_a_run_directory_holds_all_there_is_to_know(main, tmp_path):
    done = main("train", *SHORT)
    assert done.returncode == 0, done.stderr
    [run] = runs(tmp_path)
    assert re.fullmatch(r"\d{4}-\d\d-\d\d_\d\d-\d\d-\d\d-[0-9a-f]{4}", run.name)
    assert {str(path.relative_to(run)) for path in run.rglob("*") if path.is_file()} >= {
        "config.yaml",
        "environment.json",
        "metrics.json",
        "csv/metrics.csv",
        "checkpoints/best.ckpt",
        "checkpoints/last.ckpt",
        ".hydra/overrides.yaml",
    }
    # The loggers know the whole resolved configuration.
    assert OmegaConf.load(run / "csv" / "hparams.yaml") == OmegaConf.load(run / "config.yaml")
    assert record(run)["status"] == "finished"
    assert set(record(run)["metrics"]) >= {
        *("train/loss", "val/loss", "val/acc1", "val/acc5", "best/val/acc1", "lr"),
        *("throughput/images_per_s", "memory/peak_gib", "cost/params", "cost/macs", "cost/macs_paper"),
    }
    assert f"saved to     {run}\n" in done.stdout
    assert f"evaluate     fvit-eval ckpt_path={run}\n" in done.stdout
    assert f"resume with  fvit-train ckpt_path={run} trainer.max_epochs=6\n" in done.stdout
    assert f"compare      fvit-train -m {' '.join(SHORT)} attention=additive,softmax,linear seed=0,1,2\n" in done.stdout
    assert "M parameters" in done.stdout
    assert re.search(r"epoch 3/3 .*loss .*val acc1 .*images/s", done.stdout)


@pytest.mark.slow
def test_quiet_prints_only_warnings_and_results(main, tmp_path, monkeypatch):
    def chatty(*arguments):
        log = logging.getLogger("fvit.chatty")
        log.info("by the way")
        log.warning("watch out")
        return plan_batches(*arguments)

    plan_batches = importlib.import_module("fvit.train").plan_batches
    monkeypatch.setattr("fvit.train.plan_batches", chatty)
    done = main("train", "-m", *SHORT, "seed=0,1", "quiet=true")
    assert done.returncode == 0, done.stderr
    assert "compare" not in done.stdout
    first, *lines = done.stdout.splitlines()
    assert first == "watch out"
    assert lines[0].startswith("Results")
    assert not re.search(r"HYDRA|^epoch|by the way|parameters", done.stdout, flags=re.MULTILINE)
    assert done.stdout.count("watch out") == done.stdout.count("Results") == 2
    assert "Sweep " in done.stdout
    [sweep] = runs(tmp_path, kind="multiruns")
    for job in ("0", "1"):
        log = (sweep / job / "train.log").read_text()
        assert "by the way" in log
        assert "watch out" in log
        assert "quiet" not in OmegaConf.load(sweep / job / "config.yaml")


@pytest.mark.slow
@pytest.mark.parametrize("hardware", ["cpu", pytest.param("ddp_cpu", marks=pytest.mark.exhaustive)])
def test_a_mechanism_gets_the_budget_of_softmax_attention(main, fvit, tmp_path, hardware):
    overrides = [*SHORT, "attention=identity", "model.match=macs", "model.embed_dim=96", f"hardware={hardware}"]
    done = (fvit if hardware == "ddp_cpu" else main)("train", *overrides)
    assert done.returncode == 0, done.stderr
    [run] = runs(tmp_path)
    budget = re.search(r"budget +macs of softmax attention, .* embed_dim=(\d+) instead of 96 has", done.stdout)
    model = OmegaConf.load(run / "config.yaml").model
    assert model.embed_dim == int(budget[1]) > 96
    assert "match" not in model
    assert OmegaConf.load(run / "csv" / "hparams.yaml") == OmegaConf.load(run / "config.yaml")
    assert f"embed_dim={model.embed_dim}" in re.search(r" model +.*", done.stdout)[0]
    again = main("eval", f"ckpt_path={run}")
    assert again.returncode == 0, again.stderr


def test_a_run_resumes_in_its_directory(main, tmp_path):
    assert main("train", *SHORT).returncode == 0
    [run] = runs(tmp_path)
    for hardware in ("cpu", "ddp_cpu"):
        done = main("train", "model.depth=2", f"hardware={hardware}", f"ckpt_path={run}")
        assert done.returncode == 1
        assert done.stderr.count("error: ") == 1
        assert "cannot resume with another model or optimizer: model.depth=2 (was 1)" in done.stderr
        assert record(run)["status"] == "finished"
    done = main("train", "trainer.max_epochs=5", f"ckpt_path={run}")
    assert done.returncode == 0, done.stderr
    assert "epoch 4/5" in done.stdout
    assert "epoch 3/5" not in done.stdout
    assert "settings that changed: trainer.max_epochs=5 (was 3)\n" in done.stdout
    assert runs(tmp_path) == [run]
    with (run / "csv" / "metrics.csv").open(newline="") as file:
        assert sorted({int(row["epoch"]) for row in csv.DictReader(file)}) == [0, 1, 2, 3, 4]


@pytest.mark.slow
def test_the_same_command_resumes_until_it_is_finished(main, tmp_path):
    command = ("train", *SHORT, "ckpt_path=last")
    assert "there is no checkpoint in" in main(*command).stdout
    [run] = runs(tmp_path)
    before = record(run)
    (run / "metrics.json").write_text(json.dumps({**before, "status": "running", "metrics": {}}))
    done = main(*command)
    assert done.returncode == 0, done.stderr
    assert runs(tmp_path) == [run]
    assert (record(run)["status"], record(run)["metrics"]) == ("finished", before["metrics"])
    assert main(*command).returncode == 0
    assert len(runs(tmp_path)) == 2


@pytest.mark.slow
def test_a_checkpoint_file_starts_a_new_run(main, tmp_path, trained):
    (tmp_path / "moved").mkdir()
    path = tmp_path / "moved" / "last.ckpt"
    path.write_bytes((trained / "checkpoints" / "last.ckpt").read_bytes())
    with pytest.warns(UserWarning, match="The dirpath has changed"):  # the best score stays with the old directory
        done = main("train", *TINY, "scheduler.warmup_epochs=0", "trainer.max_epochs=3", f"ckpt_path={path}")
    assert done.returncode == 0, done.stderr
    assert "epoch 3/3" in done.stdout
    assert "epoch 2/3" not in done.stdout
    assert len(runs(tmp_path)) == 1


@pytest.mark.slow
def test_the_same_seed_gives_the_same_run(main, tmp_path):
    for _ in range(2):
        assert main("train", *SHORT, "augment=deit").returncode == 0
    first, second = (record(run)["metrics"] for run in runs(tmp_path))
    for name in ("train/loss", "val/loss", "val/acc1"):
        assert first[name] == second[name]


@pytest.mark.slow
@pytest.mark.parametrize("hardware", [pytest.param("cpu", marks=pytest.mark.exhaustive), "ddp_cpu"])
def test_ctrl_c_ends_all_processes_with_130(tmp_path, hardware):
    command = [sys.executable, "-m", "fvit.train", *TINY, f"hardware={hardware}", "trainer.max_epochs=100000"]
    with subprocess.Popen(
        command,
        cwd=tmp_path,
        env={**os.environ, "OMP_NUM_THREADS": "1"},
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        start_new_session=True,
        # As at a terminal: background jobs ignore SIGINT, and so do their children.
        preexec_fn=lambda: signal.signal(signal.SIGINT, signal.SIG_DFL),
    ) as process:
        for line in process.stdout:
            if line.startswith("epoch 2/"):
                break
        os.killpg(process.pid, signal.SIGINT)
        _, err = process.communicate(timeout=60)
    assert process.returncode == 130
    [run] = runs(tmp_path)
    assert err.splitlines()[0] == f"fvit-train {fvit.__version__}: loading libraries …"
    assert err.strip().splitlines()[-1] == (
        f"interrupted: {run}; resume from the last checkpoint with fvit-train ckpt_path={run}"
    )
    assert "Traceback" not in err
    assert record(run)["status"] == "interrupted"
    assert subprocess.run(["pgrep", "-g", str(process.pid)], capture_output=True).stdout == b""


@pytest.mark.parametrize(
    "preset", ["fdr", *(pytest.param(name, marks=pytest.mark.slow) for name in ("overfit", "profiler"))]
)
def test_debug_presets_run(main, tmp_path, preset):
    limits = {"overfit": ["trainer.max_epochs=20"], "profiler": ["+trainer.limit_train_batches=2"]}.get(preset, [])
    done = main("train", *TINY, f"debug={preset}", *limits)
    assert done.returncode == 0, done.stderr
    [run] = runs(tmp_path)
    assert record(run)["status"] == "finished"
    for name in ("fit-profile.txt", "trace.json", "operators.txt"):
        assert (run / name).is_file() == (preset == "profiler")


def test_evaluation_reproduces_the_recorded_accuracy_to_the_last_digit(main, tmp_path, trained):
    recorded = record(trained)["metrics"]
    for path, name in ((trained, "best/val/acc1"), (trained / "checkpoints" / "last.ckpt", "val/acc1")):
        done = main("eval", f"ckpt_path={path}")
        assert done.returncode == 0, done.stderr
        measured = record(runs(tmp_path, "eval")[-1])["metrics"]
        assert measured["val/acc1"] == recorded[name]
    assert measured["val/loss"] == recorded["val/loss"]


@pytest.mark.slow
def test_a_checkpoint_is_evaluated_on_another_source(main, trained):
    done = main("eval", f"ckpt_path={trained}", "data.name=digits")
    assert done.returncode == 0, done.stderr
    for overrides, message in (
        (["data.root=DIR"], "set data.name=folder as well"),
        (["data.name=folder", "data.root=DIR"], "data.root=DIR is not a folder"),
        (["data.name=digit"], "unknown data source 'digit', did you mean digits?; known: digits, folder"),
    ):
        done = main("eval", f"ckpt_path={trained}", *overrides)
        assert done.returncode == 1
        assert message in done.stderr
        assert "Traceback" not in done.stderr


@pytest.mark.parametrize("command", [["train", *SHORT], ["eval"]], ids=["train", "eval"])
def test_broken_checkpoints_are_named(main, tmp_path, trained, command):
    content = bytearray((trained / "checkpoints" / "last.ckpt").read_bytes())
    (tmp_path / "cut.ckpt").write_bytes(content[: len(content) // 2])
    content[len(content) // 2] ^= 1
    (tmp_path / "changed.ckpt").write_bytes(content)
    for path, message in (("cut.ckpt", r"\([\d,]+ bytes\) is truncated"), ("changed.ckpt", "")):
        done = main(*command, f"ckpt_path={path}")
        assert done.returncode == 1
        assert re.search(f"error: {path} *{message}", done.stderr)
        assert "Traceback" not in done.stderr
